import { fork } from 'node:child_process'
import { once } from 'node:events'
import t, { type Test } from 'tap'
import type { SseSessionsOptions } from '../../lib/index.js'
import { assertErrorResponse } from '../support/error-response.js'
import { deleteSession, openStream, postMessage, type ClientStream, type HttpResponse } from '../support/http-client.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import type { Report } from './support/attacked-server.js'

const MEGABYTE = 2 ** 20
const COUNT = 24

interface AttackedServer {
  readonly url: string
  /** Returns how many bytes of memory the server uses. */
  measure (): Promise<number>
}

async function startServer (t: Test, options: SseSessionsOptions = {}): Promise<AttackedServer> {
  const server = fork(new URL('./support/attacked-server.ts', import.meta.url), [JSON.stringify(options)], { execArgv: [...process.execArgv, '--expose-gc'] })
  t.teardown(() => { server.disconnect() })
  const nextReport = async (): Promise<Report> => (await withTimeout(once(server, 'message') as Promise<[Report]>, 'the server', 60_000))[0]
  const first = await nextReport()
  const measure = async (): Promise<number> => {
    const reply = nextReport()
    server.send('measure')
    const result = await reply
    return 'bytes' in result ? result.bytes : NaN
  }
  // The first messages compile functions, and create connections that are kept open.
  const url = `http://127.0.0.1:${'port' in first ? first.port : NaN}`
  const { sessionId } = await openStream(t, url)
  for (const event of ['respond', 'send', 'visit']) await postMessage(url, sessionId, '"warm up"', { event })
  await deleteSession(url, sessionId)
  return { url, measure }
}

/** Runs an attack, and asserts that the server then keeps less memory than a limit. */
async function attack (t: Test, { measure }: AttackedServer, maxMegabytes: number, run: () => Promise<void>): Promise<void> {
  const before = await measure()
  await run()
  let growth = Infinity
  // The buffers of requests are released only some time after the responses, above all on a busy machine. Sessions expire later.
  await waitUntil(async () => {
    growth = (await measure() - before) / MEGABYTE
    return growth < maxMegabytes
  }, 'the memory to be released', 10_000).catch(() => {})
  t.ok(growth < maxMegabytes, `the memory grew by ${growth.toFixed(1)} MiB, and may grow by ${maxMegabytes}`)
}

const server = await startServer(t)
const { url } = server

t.test('large responses that are stored for repeats take bounded memory, and no repeat is handled again', async t => {
  const { sessionId } = await openStream(t, url)
  await attack(t, server, 10, async () => {
    for (let n = 0; n < COUNT; n++) t.equal((await postMessage(url, sessionId, n, { event: 'respond', key: `key ${n}` })).status, 200)
  })
  const { body } = await postMessage(url, sessionId, null, { event: 'count' })
  assertErrorResponse(t, await postMessage(url, sessionId, 0, { event: 'respond', key: 'key 0' }), 410, 'FST_SSE_RESPONSE_DROPPED')
  t.strictSame((await postMessage(url, sessionId, null, { event: 'count' })).body, body)
  const last = COUNT - 1
  t.match(await postMessage(url, sessionId, last, { event: 'respond', key: `key ${last}` }), { status: 200, headers: { 'idempotent-replayed': 'true' } })
})

t.test('large messages that wait, and repeats of one that is being handled, take bounded memory', async t => {
  const { sessionId } = await openStream(t, url)
  const refused: HttpResponse[] = []
  const post = (n: number, key: string): void => {
    postMessage(url, sessionId, `"${String(n).padEnd(500_000)}"`, { event: 'hang', key }).then(response => { refused.push(response) }, () => {})
  }
  await attack(t, server, 12, async () => {
    for (let n = 0; n < COUNT; n++) post(n, `key ${n}`)
    await openStream(t, url)
    for (let n = 0; n < COUNT; n++) post(0, 'key 0')
    const { sessionId: other } = await openStream(t, url)
    // A message of another session is handled after all of these have arrived.
    await postMessage(url, other, null, { event: 'count' })
    await waitUntil(() => refused.length >= 2 * COUNT - 10, 'the responses')
  })
  for (const response of refused) assertErrorResponse(t, response, 429, 'FST_SSE_TOO_MANY_WAITING')
})

t.test('channels that a session has left take bounded memory, also while no client is connected', async t => {
  for (const isConnected of [true, false]) {
    await attack(t, server, 8, async () => {
      const stream = await openStream(t, url)
      if (!isConnected) stream.destroy()
      for (let n = 0; n < COUNT; n++) await postMessage(url, stream.sessionId, `"channel ${n}"`, { event: 'visit' })
    })
  }
})

t.test('closed sessions take little memory after their clients have received the close event', async t => {
  await attack(t, server, 10, async () => {
    for (let n = 0; n < COUNT; n++) {
      const { sessionId, ended } = await openStream(t, url)
      await postMessage(url, sessionId, null, { event: 'send' })
      await deleteSession(url, sessionId)
      await withTimeout(ended, 'the end')
    }
  })
})

t.test('logs of many sessions together do not exceed maxBytes, and the clients get a gap', async t => {
  const server = await startServer(t, { maxBytes: 8 * MEGABYTE })
  const { url } = server
  const streams: ClientStream[] = []
  await attack(t, server, 16, async () => {
    for (let n = 0; n < COUNT; n++) {
      const stream = await openStream(t, url)
      stream.destroy()
      await postMessage(url, stream.sessionId, null, { event: 'send' })
      streams.push(stream)
    }
  })
  const resumed = await openStream(t, url, { headers: { 'last-event-id': streams[0]?.events[0]?.id ?? '' } })
  t.match(await resumed.waitFor(({ event }) => event === 'gap'), { data: { reason: 'bytes' } })
})
