import { connect } from 'node:net'
import { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { Pool, request } from 'undici'
import { runScript } from '../support/child.js'
import { malformedRequests, type Malformed } from './support/malformed-requests.js'
import { random, seedOf } from '../support/random.js'
import { openStream, post } from '../support/stream.js'
import { within } from '../support/wait.js'

interface Health {
  readonly sessions: number
  readonly streams: number
  readonly connections: number
  readonly bytes: number
}

/** Sends a request as it is, and resolves with all that is answered; a stream is left when its welcome has come. */
function abuse (port: number, { bytes, then, kind }: Malformed): Promise<string> {
  return within(new Promise<string>(resolve => {
    let answer = ''
    const socket = connect({ port, host: '127.0.0.1' })
    socket.setEncoding('latin1')
      .on('data', (chunk: string) => {
        answer += chunk
        if (answer.includes('event: welcome') && answer.endsWith('\n\n')) socket.destroy()
      })
      // The server may close while it is still being written to.
      .on('error', () => {})
      .on('close', () => { resolve(answer) })
    socket.write(bytes, () => { if (then === 'leave') socket.destroy() })
    if (then === 'end') socket.end()
  }), `the answer to a malformed request: ${kind}`)
}

async function health (url: string): Promise<Health> {
  return await (await request(`${url}/health`)).body.json() as Health
}

/** Resolves when nobody but the given number of sessions is left; with the memory that is then in use. */
async function settled (url: string, sessions: number): Promise<number> {
  const end = Date.now() + 20_000
  for (;;) {
    const now = await health(url)
    if (now.sessions === sessions && now.streams === sessions && now.connections <= sessions + 2) return now.bytes
    if (Date.now() > end) throw new Error(`What is left: ${JSON.stringify(now)}`)
  }
}

/** Sends many, several at once, and checks every answer. */
async function abuseMany (t: Test, url: string, next: () => Malformed, count: number): Promise<Map<string, number>> {
  const port = Number(new URL(url).port)
  const outcomes = new Map<string, number>()
  const unclean = new Set<string>()
  const worker = async (): Promise<void> => {
    while (count-- > 0) {
      const malformed = next()
      const { kind, bytes, silence, isClean } = malformed
      const answer = await abuse(port, malformed)
      const statuses = Array.from(answer.matchAll(/(?:^|\n|\})HTTP\/1\.1 (\d{3}) /g), ([, status]) => Number(status))
      const clean = (statuses.length > 0 || silence) && statuses.every(isClean) && (!answer.includes('event: welcome') || kind === 'aborted stream' || answer.includes('"resumed":false,"previous":"unknown"'))
      const outcome = `${kind}: ${statuses.join(' ') || 'closed'}`
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
      if (!clean && !unclean.has(outcome)) t.fail(outcome, { request: JSON.stringify(bytes.toString('latin1').slice(0, 500)), answer: answer.slice(0, 800) })
      if (!clean) unclean.add(outcome)
    }
  }
  await Promise.all(Array.from({ length: 40 }, worker))
  t.strictSame([...unclean], [], 'every answer is clean')
  return outcomes
}

/** What breaks off in the middle of an upload. */
async function * brokenOff (): AsyncGenerator<string> {
  yield '{"text":'
  throw new Error('the client breaks off')
}

/** Sends requests of a real client, with nonsense in them, over connections that are kept; resolves with what came of each. */
async function abuseKept (url: string, next: () => number, victim: string, count: number): Promise<Set<number | 'broken off'>> {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)] as T
  const pool = new Pool(url, { connections: 10 })
  const outcomes = new Set<number | 'broken off'>()
  const worker = async (): Promise<void> => {
    while (count-- > 0) {
      const method = pick(['POST', 'PUT', 'PATCH', 'DELETE'] as const)
      const path = method === 'POST' ? pick(['/upward', '/upward/unknown', '/upward/%0a', '/upward/%f0', `/${pick(['a', '%', '?'])}`]) : pick(['/upward', '/', '/upward/unknown', '/downward/x'])
      const headers = { 'content-type': pick(['application/json', 'application/x-ndjson', 'text/html']), 'x-session-id': pick([victim, victim.toUpperCase(), '\xff', '']), 'idempotency-key': pick(['\xe9', 'k', '']) }
      const body = pick([() => '{', () => '{}', () => '"\0"', () => 'x'.repeat(30_000), () => '', brokenOff])()
      await within(pool.request({ method, path, headers, body: typeof body === 'string' ? body : Readable.from(body) }).then(async ({ statusCode, body }) => {
        // A batch is answered message by message.
        const text = await body.text()
        for (const { status } of statusCode === 200 ? JSON.parse(text) as Array<{ status: number }> : [{ status: statusCode }]) outcomes.add(status)
      }, () => { outcomes.add('broken off') }), 'an answer')
    }
  }
  await Promise.all(Array.from({ length: 20 }, worker))
  await pool.destroy()
  return outcomes
}

t.test('ten thousand malformed requests are answered cleanly and leave nothing behind', async t => {
  const next = random(seedOf(t))
  const loaders = process.execArgv.filter(flag => flag.includes('typescript'))
  const server = runScript(t, fileURLToPath(new URL('./support/malformed-requests-server.ts', import.meta.url)), {}, ['--expose-gc', ...loaders])
  const [url] = await server.printed(/http:\/\/\S+/, 40_000)
  const victim = await openStream(t, url)
  const generate = malformedRequests(next, victim.sessionId)

  // So that what is compiled and cached on first use is there before it is measured.
  await abuseMany(t, url, generate, 2_000)
  const before = await settled(url, 1)
  const outcomes = await abuseMany(t, url, generate, 10_000)
  const kept = await abuseKept(url, next, victim.sessionId, 1_000)
  const after = await settled(url, 1)

  t.strictSame([...kept].filter(outcome => outcome !== 'broken off' && (outcome < 400 || outcome > 499)), [], 'answers on connections that are kept are clean, too')
  t.ok(kept.has('broken off') && kept.size >= 5, `they are many: ${[...kept].join(', ')}`)
  for (const [outcome, count] of [...outcomes].sort()) t.comment(`${count} × ${outcome}`)
  t.comment(`${before} bytes before, ${after} after`)
  t.ok(after - before < 3_000_000, `memory returns: ${after - before} bytes more`)
  t.equal(server.process.exitCode, null, 'the server lives')
  t.equal(server.output().trim(), url, 'and has printed no warning')
  t.strictSame(victim.events.map(({ event }) => event), ['welcome'], 'the session that they named was not touched')
  t.equal((await post(url, victim.sessionId, { text: 'still here' })).status, 201)
  t.match((await victim.waitFor(({ event }) => event === 'message')).data, { text: 'Data received: still here' })
})
