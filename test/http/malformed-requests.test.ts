import { connect } from 'node:net'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { Pool, request } from 'undici'
import { bundleForNode } from '../support/bundle.js'
import { runScript } from '../support/child-process.js'
import { malformedRequests, type MalformedRequest } from './support/malformed-requests.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { openStream, postMessage } from '../support/http-client.js'
import { withTimeout } from '../support/wait.js'

interface Health {
  readonly sessions: number
  readonly streams: number
  readonly connections: number
  readonly bytes: number
}

/** Sends the bytes of a request, and resolves with everything that the server sends back. Disconnects from a stream after its welcome event. */
function sendMalformed (port: number, { bytes, then, kind }: MalformedRequest): Promise<string> {
  return withTimeout(new Promise<string>(resolve => {
    let response = ''
    const socket = connect({ port, host: '127.0.0.1' })
    socket.setEncoding('latin1')
      .on('data', (chunk: string) => {
        response += chunk
        // The stream is in chunks, each of which ends with CR LF.
        if (response.includes('event: welcome') && response.endsWith('\n\n\r\n')) socket.destroy()
      })
      // The server may close the connection while the client is still writing.
      .on('error', () => {})
      .on('close', () => { resolve(response) })
    socket.write(bytes, () => { if (then === 'disconnect') socket.destroy() })
    if (then === 'end') socket.end()
  }), `the response to a malformed request: ${kind}`)
}

async function fetchHealth (url: string): Promise<Health> {
  return await (await request(`${url}/health`)).body.json() as Health
}

/** Resolves when the server has only this number of sessions, and no other connections. Returns the memory that it then uses. */
async function waitForSessions (url: string, sessions: number): Promise<number> {
  const end = Date.now() + 20_000
  for (;;) {
    const health = await fetchHealth(url)
    if (health.sessions === sessions && health.streams === sessions && health.connections <= sessions + 2) return health.bytes
    if (Date.now() > end) throw new Error(`The server still has ${JSON.stringify(health)}`)
  }
}

/** Sends malformed requests over 40 connections at a time, and checks every response. Returns how often each outcome occurred. */
async function sendManyMalformed (t: Test, url: string, next: () => MalformedRequest, count: number): Promise<Map<string, number>> {
  const port = Number(new URL(url).port)
  const outcomes = new Map<string, number>()
  const invalid = new Set<string>()
  const worker = async (): Promise<void> => {
    while (count-- > 0) {
      const malformed = next()
      const { kind, bytes, mayCloseSilently, isExpectedStatus } = malformed
      const response = await sendMalformed(port, malformed)
      const statuses = Array.from(response.matchAll(/(?:^|\n|\})HTTP\/1\.1 (\d{3}) /g), ([, status]) => Number(status))
      const isValid = (statuses.length > 0 || mayCloseSilently) && statuses.every(isExpectedStatus) && (!response.includes('event: welcome') || kind === 'aborted stream' || response.includes('"resumed":false,"previous":"unknown"'))
      const outcome = `${kind}: ${statuses.join(' ') || 'closed'}`
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
      if (!isValid && !invalid.has(outcome)) t.fail(outcome, { request: JSON.stringify(bytes.toString('latin1').slice(0, 500)), response: response.slice(0, 800) })
      if (!isValid) invalid.add(outcome)
    }
  }
  await Promise.all(Array.from({ length: 40 }, worker))
  t.strictSame([...invalid], [], 'every response is valid')
  return outcomes
}

/** A request body that fails in the middle of an upload. */
async function * failingBody (): AsyncGenerator<string> {
  yield '{"text":'
  throw new Error('the upload is aborted')
}

/** Sends invalid requests with a real HTTP client over keep-alive connections. Returns the statuses of all messages, and whether requests were aborted. */
async function sendOverKeepAlive (url: string, next: () => number, victim: string, count: number): Promise<Set<number | 'aborted'>> {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)] as T
  const pool = new Pool(url, { connections: 10 })
  const outcomes = new Set<number | 'aborted'>()
  const worker = async (): Promise<void> => {
    while (count-- > 0) {
      const method = pick(['POST', 'PUT', 'PATCH', 'DELETE'] as const)
      const path = method === 'POST' ? pick(['/upward', '/upward/unknown', '/upward/%0a', '/upward/%f0', `/${pick(['a', '%', '?'])}`]) : pick(['/upward', '/', '/upward/unknown', '/downward/x'])
      const headers = { 'content-type': pick(['application/json', 'application/x-ndjson', 'text/html']), 'x-session-id': pick([victim, victim.toUpperCase(), '\xff', '']), 'idempotency-key': pick(['\xe9', 'k', '']) }
      const body = pick([() => '{', () => '{}', () => '"\0"', () => 'x'.repeat(30_000), () => '', failingBody])()
      await withTimeout(pool.request({ method, path, headers, body: typeof body === 'string' ? body : Readable.from(body) }).then(async ({ statusCode, body }) => {
        // The response to a batch contains one status per message.
        const text = await body.text()
        for (const { status } of statusCode === 200 ? JSON.parse(text) as Array<{ status: number }> : [{ status: statusCode }]) outcomes.add(status)
      }, () => { outcomes.add('aborted') }), 'the response')
    }
  }
  await Promise.all(Array.from({ length: 20 }, worker))
  await pool.destroy()
  return outcomes
}

t.test('10,000 malformed requests get valid error responses, and leave no sessions, connections or memory behind', async t => {
  const next = createRandom(chooseSeed(t))
  const program = await bundleForNode(t, new URL('./support/malformed-requests-server.ts', import.meta.url))
  const server = runScript(t, program, {}, ['--expose-gc'])
  const [url] = await server.waitForOutput(/http:\/\/\S+/, 40_000)
  const victim = await openStream(t, url)
  const generate = malformedRequests(next, victim.sessionId)

  // Fills caches and compiles code before memory is measured.
  await sendManyMalformed(t, url, generate, 2_000)
  const before = await waitForSessions(url, 1)
  const outcomes = await sendManyMalformed(t, url, generate, 10_000)
  const keepAliveOutcomes = await sendOverKeepAlive(url, next, victim.sessionId, 1_000)
  const after = await waitForSessions(url, 1)

  t.strictSame([...keepAliveOutcomes].filter(outcome => outcome !== 'aborted' && (outcome < 400 || outcome > 499)), [], 'responses over keep-alive connections are valid, too')
  t.ok(keepAliveOutcomes.has('aborted') && keepAliveOutcomes.size >= 5, `many different outcomes: ${[...keepAliveOutcomes].join(', ')}`)
  for (const [outcome, count] of [...outcomes].sort()) t.comment(`${count} × ${outcome}`)
  t.comment(`${before} bytes before, ${after} after`)
  t.ok(after - before < 3_000_000, `the memory is released: ${after - before} bytes more`)
  t.equal(server.process.exitCode, null, 'the server is running')
  t.equal(server.output().trim(), url, 'the server has printed no warning')
  t.strictSame(victim.events.map(({ event }) => event), ['welcome'], 'the session whose id the requests used is unchanged')
  t.equal((await postMessage(url, victim.sessionId, { text: 'hi' })).status, 201)
  t.match((await victim.waitFor(({ event }) => event === 'message')).data, { text: 'Data received: hi' })
})
