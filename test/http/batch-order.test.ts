import t from 'tap'
import { openStream, postMessage, type HttpResponse } from '../support/http-client.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { testEachStoreFactory } from '../support/stores.js'
import { addEndless } from '../support/streaming-handlers.js'
import { waitForWaitingMessages } from './support/wait-for-waiting-messages.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

// The client repeats the messages of a batch whose result is 429 or 503, so no message after them may be handled before.

interface Line { readonly event: string, readonly id?: string, readonly data?: unknown }

const postBatch = (url: string, sessionId: string, lines: readonly Line[]): Promise<HttpResponse> =>
  withTimeout(postMessage(url, sessionId, lines.map(line => JSON.stringify(line)).join('\n'), { headers: { 'content-type': 'application/x-ndjson' } }), 'the response')

testEachStoreFactory(t, 'if a server closes before a handler has returned an iterable, no later message of the batch is handled there', async (t, connect, servers) => {
  const handled: string[] = []
  const started = deferred()
  const gate = deferred()
  const openNode = async () => {
    const node = await serve(t, { closeTimeout: 9000, store: await connect() })
    node.sessions
      .handle('values', async () => {
        started.resolve()
        await gate.promise
        return (async function * () { handled.push('values') })()
      })
      .handle('n', () => { handled.push('n') })
    return node
  }
  const nodeA = await openNode()
  const { sessionId } = await openStream(t, nodeA.url)
  const lines = [{ event: 'values', id: 'm1' }, { event: 'n', id: 'm2' }]
  const batch = postBatch(nodeA.url, sessionId, lines)
  await withTimeout(started.promise, 'the handler')
  const closed = nodeA.app.close()
  await waitUntil(() => nodeA.sessions.closing, 'the close to begin')
  gate.resolve()
  matchList(t, (await batch).body, [{ status: 503, body: { code: 'FST_SSE_CLOSING' } }, { status: 503, body: { code: 'FST_SSE_CLOSING' } }])
  t.strictSame(handled, [])
  await withTimeout(closed, 'the close')
  // With the memory store, the session does not exist any more.
  if (servers.length === 0) return
  const nodeB = await openNode()
  matchList(t, (await postBatch(nodeB.url, sessionId, lines)).body, [{ status: 202, replayed: undefined }, { status: 202, replayed: undefined }])
  t.strictSame(handled.toSorted(), ['n', 'values'])
})

testEachStoreFactory(t, 'after a message that is refused with 429 or 503, only concurrent messages of a batch are handled', async (t, connect) => {
  let refusedStatus = 503
  const { url, sessions } = await serve(t, { maxWaitingMessages: 5, store: await connect() }, {
    beforeRegister: app => app.addHook('preHandler', async (request, reply) => {
      const { event } = request.params as { event?: string }
      if (event === 'refused' && refusedStatus !== 0) return reply.code(refusedStatus).send({ refused: true })
    })
  })
  const handled: unknown[] = []
  const record = (_session: unknown, data: unknown): void => { handled.push(data) }
  sessions
    .handle('n', record)
    .handle('refused', record)
    .handle('concurrent', { concurrent: true }, record)
    .handle('failed', () => { throw Object.assign(new Error('handled'), { statusCode: 503 }) })
  addEndless(sessions)
  const { sessionId } = await openStream(t, url)
  const lines = [{ event: 'n', id: '1', data: 1 }, { event: 'refused', id: '2', data: 2 }, { event: 'concurrent', id: 'c', data: 'c' }, { event: 'n', id: '3', data: 3 }, { event: 'n', data: 4 }]
  const refusal = (status: number): object => ({ status, body: { refused: true }, replayed: undefined })
  const { body } = await postBatch(url, sessionId, lines)
  matchList(t, body, [{ status: 202 }, refusal(503), { status: 202 }, refusal(503), refusal(503)])
  t.strictSame(handled.splice(0).map(String).toSorted(), ['1', 'c'])
  refusedStatus = 429
  const repeated = lines.filter(({ id }) => id !== '1' && id !== 'c')
  matchList(t, (await postBatch(url, sessionId, repeated)).body, [refusal(429), refusal(429), refusal(429)])
  refusedStatus = 409
  matchList(t, (await postBatch(url, sessionId, [{ event: 'refused', id: '0' }, { event: 'n', data: 0 }])).body, [refusal(409), { status: 202 }], 'the client does not repeat a message with another status')
  matchList(t, (await postBatch(url, sessionId, [{ event: 'failed', id: 'f' }, { event: 'n', data: 1 }])).body, [{ status: 503 }, { status: 202 }], 'a handled message is not handled again')
  refusedStatus = 0
  matchList(t, (await postBatch(url, sessionId, repeated)).body, [2, 3, 4].map(() => ({ status: 202, replayed: undefined })))
  t.strictSame(handled.splice(0), [0, 1, 2, 3, 4])
  for (let count = 0; count <= 5; count++) await postMessage(url, sessionId, {}, { event: 'endless' })
  const tooMany = { status: 429, body: { code: 'FST_SSE_TOO_MANY_DELIVERIES' } }
  matchList(t, (await postBatch(url, sessionId, [{ event: 'endless', id: 'e' }, { event: 'n', id: 'n' }])).body, [tooMany, tooMany])
  t.strictSame(handled, [])
})

t.test('if the original of a repeat is refused, the messages after the repeat are refused, too', async t => {
  const { url, sessions } = await serve(t, { maxWaitingMessages: 5 })
  const handled: string[] = []
  const started = deferred()
  const gate = deferred()
  sessions
    .handle('values', async () => {
      started.resolve()
      await gate.promise
      return (async function * () { handled.push('values') })()
    })
    .handle('n', () => { handled.push('n') })
  addEndless(sessions)
  const { sessionId } = await openStream(t, url)
  for (let count = 0; count <= 5; count++) await postMessage(url, sessionId, {}, { event: 'endless' })
  const original = postBatch(url, sessionId, [{ event: 'values', id: 'm1' }])
  await withTimeout(started.promise, 'the handler')
  const batch = postBatch(url, sessionId, [{ event: 'values', id: 'm1' }, { event: 'values', id: 'm1', data: 'other' }, { event: 'n', id: 'm2' }])
  await waitForWaitingMessages(sessions, sessionId, 2)
  gate.resolve()
  const tooMany = { status: 429, body: { code: 'FST_SSE_TOO_MANY_DELIVERIES' } }
  matchList(t, (await original).body, [tooMany])
  matchList(t, (await batch).body, [tooMany, { status: 422 }, tooMany])
  t.strictSame(handled, [])
})
