import { connect } from 'node:net'
import fc from 'fast-check'
import t from 'tap'
import { refused } from '../support/error-response.js'
import { seedOf } from '../support/random.js'
import { serve } from '../support/server.js'
import { openStream, post } from '../support/stream.js'
import { waitForWaiting } from './support/waiting-messages.js'
import { signal, until, within } from '../support/wait.js'

const REPLAYED = 'idempotent-replayed'

t.test('a repeated key gets the first answer again, with its status and headers', async t => {
  const { sessions, url } = await serve(t)
  let handled = 0
  sessions.handle('count', (_session, _data, { reply }) => reply.code(201).header('x-count', String(++handled)).send({ handled }))
  const { sessionId } = await openStream(t, url)
  const first = await post(url, sessionId, { a: 1 }, { event: 'count', key: 'k' })
  t.match(first, { status: 201, body: { handled: 1 }, headers: { 'x-count': '1', [REPLAYED]: undefined } })
  t.match(await post(url, sessionId, { a: 1 }, { event: 'count', key: 'k' }), { status: 201, body: { handled: 1 }, headers: { 'x-count': '1', [REPLAYED]: 'true' } })
  t.match(await post(url, sessionId, { a: 1 }, { event: 'count', key: 'other' }), { body: { handled: 2 }, headers: { [REPLAYED]: undefined } })
  t.match(await post(url, sessionId, { a: 1 }, { event: 'count' }), { body: { handled: 3 } })
  t.equal(handled, 3)
})

t.test('a repeat that comes while the first is running waits for it', async t => {
  const { sessions, url } = await serve(t)
  const begun = signal()
  const release = signal()
  let handled = 0
  sessions.handle('slow', async () => {
    begun.resolve()
    await release.promise
    return { handled: ++handled }
  })
  const { sessionId } = await openStream(t, url)
  const first = post(url, sessionId, {}, { event: 'slow', key: 'k' })
  await within(begun.promise, 'the handler')
  const repeats = [post(url, sessionId, {}, { event: 'slow', key: 'k' }), post(url, sessionId, {}, { event: 'slow', key: 'k' })]
  refused(t, await post(url, sessionId, { not: 'it' }, { event: 'slow', key: 'k' }), 422, 'FST_SSE_IDEMPOTENCY_KEY_REUSED')
  release.resolve()
  t.match(await first, { status: 200, body: { handled: 1 }, headers: { [REPLAYED]: undefined } })
  for (const repeat of await Promise.all(repeats)) t.match(repeat, { status: 200, body: { handled: 1 }, headers: { [REPLAYED]: 'true' } })
})

t.test('a repeat after the answer was lost is answered, not handled again', async t => {
  const { sessions, url, port } = await serve(t)
  const begun = signal()
  const release = signal()
  const gone = signal()
  let handled = 0
  sessions.handle('slow', async (_session, _data, { request }) => {
    request.raw.socket.once('close', () => { gone.resolve() })
    begun.resolve()
    await release.promise
    return { handled: ++handled }
  })
  const { sessionId } = await openStream(t, url)
  const socket = connect(port, '127.0.0.1')
  socket.write(`POST /upward/slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\nX-Session-ID: ${sessionId}\r\nIdempotency-Key: k\r\n\r\n{}`)
  await within(begun.promise, 'the handler')
  socket.destroy()
  await within(gone.promise, 'the server to notice')
  release.resolve()
  await until(() => handled === 1, 'the handler')
  t.match(await post(url, sessionId, {}, { event: 'slow', key: 'k' }), { status: 200, body: { handled: 1 }, headers: { [REPLAYED]: 'true' } })
})

t.test('a key with another payload, or another event, is 422', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('a', () => 'a').handle('b', () => 'b')
  const { sessionId } = await openStream(t, url)
  await post(url, sessionId, { n: 1 }, { event: 'a', key: 'k' })
  refused(t, await post(url, sessionId, { n: 2 }, { event: 'a', key: 'k' }), 422, 'FST_SSE_IDEMPOTENCY_KEY_REUSED')
  refused(t, await post(url, sessionId, { n: 1 }, { event: 'b', key: 'k' }), 422, 'FST_SSE_IDEMPOTENCY_KEY_REUSED')
  t.match(await post(url, sessionId, { n: 1 }, { event: 'a', key: 'k' }), { body: 'a', headers: { [REPLAYED]: 'true' } })
})

t.test('a key counts within its session', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('who', ({ id }) => id)
  for (const { sessionId } of [await openStream(t, url), await openStream(t, url)]) {
    t.match(await post(url, sessionId, {}, { event: 'who', key: 'k' }), { body: sessionId, headers: { [REPLAYED]: undefined } })
  }
})

t.test('a key that is no printable ASCII, or too long, is 400', async t => {
  const { url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  for (const key of ['k'.repeat(256), 'caf\xe9', '\x80']) {
    refused(t, await post(url, sessionId, { text: 'hi' }, { key }), 400, 'FST_SSE_IDEMPOTENCY_KEY_INVALID')
  }
  t.equal((await post(url, sessionId, { text: 'hi' }, { key: 'k'.repeat(255) })).status, 201)
  t.equal((await post(url, sessionId, { text: 'hi' }, { key: '"with spaces"' })).status, 201)
})

t.test('an error of a handler is the answer to its repeats', async t => {
  const { sessions, url } = await serve(t)
  let handled = 0
  sessions.handle('fail', () => { throw Object.assign(new Error(`failure ${++handled}`), { statusCode: 409, code: 'APP_FAILED' }) })
  const { sessionId } = await openStream(t, url)
  refused(t, await post(url, sessionId, {}, { event: 'fail', key: 'k' }), 409, 'APP_FAILED')
  const repeat = await post(url, sessionId, {}, { event: 'fail', key: 'k' })
  refused(t, repeat, 409, 'APP_FAILED')
  t.match(repeat, { body: { message: 'failure 1' }, headers: { [REPLAYED]: 'true' } })
})

t.test('a message that was refused is not recorded: its key is as good as new', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('even', { schema: { type: 'object', properties: { n: { type: 'integer', multipleOf: 2 } } } }, () => 'even')
  const release = signal()
  sessions.handle('wait', () => release.promise)
  const { sessionId } = await openStream(t, url)
  const refuse = async (): Promise<void> => {
    refused(t, await post(url, sessionId, {}, { event: 'nobody', key: 'k' }), 404, 'FST_SSE_EVENT_UNKNOWN')
    refused(t, await post(url, sessionId, { n: 1 }, { event: 'even', key: 'k' }), 400, 'FST_ERR_VALIDATION')
  }
  await refuse()
  const waiting = post(url, sessionId, {}, { event: 'wait' })
  const refusals = refuse()
  await waitForWaiting(sessions, sessionId, 1)
  release.resolve()
  await refusals
  t.equal((await waiting).status, 202)
  t.match(await post(url, sessionId, { n: 2 }, { event: 'even', key: 'k' }), { status: 200, headers: { [REPLAYED]: undefined } })
})

t.test('only so many answers are kept, and the oldest goes first', async t => {
  const { sessions, url } = await serve(t, { maxIdempotencyKeys: 2 })
  let handled = 0
  sessions.handle('n', () => ({ handled: ++handled }))
  const { sessionId } = await openStream(t, url)
  const n = async (key: string): Promise<unknown> => (await post(url, sessionId, {}, { event: 'n', key })).body
  t.strictSame([await n('a'), await n('b'), await n('a')], [{ handled: 1 }, { handled: 2 }, { handled: 1 }])
  t.strictSame([await n('c'), await n('b'), await n('a')], [{ handled: 3 }, { handled: 2 }, { handled: 4 }], 'c pushed out a')
})

t.test('the answer of a message that runs or waits is kept, however many there are', async t => {
  let arrived = 0
  const { sessions, url } = await serve(t, { maxIdempotencyKeys: 1 }, { before: app => app.addHook('preHandler', async () => { arrived++ }) })
  const gates = Array.from({ length: 4 }, () => signal())
  const handled: number[] = []
  sessions.handle('gate', async (_session, data) => {
    const { n } = data as { n: number }
    handled.push(n)
    await gates[n]?.promise
    return { n }
  })
  const { sessionId } = await openStream(t, url)
  const send = (n: number): ReturnType<typeof post> => post(url, sessionId, { n }, { event: 'gate', key: `k${n}` })
  const answers = []
  for (const n of gates.keys()) {
    answers.push(send(n))
    await until(() => arrived === n + 2, 'the message')
  }
  gates[0]?.resolve()
  t.match(await answers[0], { body: { n: 0 } })
  const repeats = [1, 2, 3].map(send)
  await until(() => arrived === 8, 'the repeats')
  for (const gate of gates) gate.resolve()
  t.match(await Promise.all(answers), [0, 1, 2, 3].map(n => ({ body: { n }, headers: { [REPLAYED]: undefined } })))
  t.match(await Promise.all(repeats), [1, 2, 3].map(n => ({ body: { n }, headers: { [REPLAYED]: 'true' } })))
  t.strictSame(handled, [0, 1, 2, 3])
})

t.test('with no answers kept, a repeat runs again, but never beside the first', async t => {
  let arrived = 0
  const { sessions, url } = await serve(t, { maxIdempotencyKeys: 0 }, { before: app => app.addHook('preHandler', async () => { arrived++ }) })
  const release = signal()
  let handled = 0
  sessions.handle('slow', async () => {
    handled++
    await release.promise
  })
  const { sessionId } = await openStream(t, url)
  const answers = [1, 2].map(() => post(url, sessionId, {}, { event: 'slow', key: 'k' }))
  await until(() => arrived === 3, 'both')
  release.resolve()
  t.match(await Promise.all(answers), [{ status: 202 }, { status: 202 }])
  t.equal(handled, 1)
  await post(url, sessionId, {}, { event: 'slow', key: 'k' })
  t.equal(handled, 2)
})

t.test('however repeats fall among other messages, each key is handled once, in the order of arrival', async t => {
  const seed = seedOf(t)
  const arrived = new Map<unknown, Set<number>>()
  const { sessions, url } = await serve(t, {}, {
    before: app => app.addHook('preHandler', async ({ headers, body }) => {
      if (body !== undefined) arrived.get(headers['x-session-id'])?.add((body as { n: number }).n)
    })
  })
  const handled: number[] = []
  sessions.handle('n', async (_session, data) => {
    const { n, turns } = data as { n: number, turns: number }
    for (let i = 0; i < turns; i++) await new Promise(setImmediate)
    handled.push(n)
    return { n }
  })
  const messages = fc.array(fc.record({ repeats: fc.nat(3), turns: fc.nat(3), awaited: fc.boolean() }), { minLength: 1, maxLength: 12 })
  await fc.assert(fc.asyncProperty(messages, async plan => {
    const { sessionId, destroy } = await openStream(t, url)
    const order = new Set<number>()
    arrived.set(sessionId, order)
    handled.length = 0
    const all: Array<Promise<void>> = []
    for (const [n, { repeats, turns, awaited }] of plan.entries()) {
      const sent = Array.from({ length: repeats + 1 }, () => post(url, sessionId, { n, turns }, { event: 'n', key: `k${n}` }))
      all.push(Promise.all(sent).then(answers => {
        for (const { status, body } of answers) t.strictSame({ status, body }, { status: 200, body: { n } })
        t.equal(answers.filter(({ headers }) => headers[REPLAYED] !== 'true').length, 1, 'one is the first')
      }))
      if (awaited) await all.at(-1)
    }
    await Promise.all(all)
    t.equal(order.size, plan.length)
    t.strictSame(handled, [...order])
    destroy()
  }), { seed, numRuns: 40 })
})

t.test('data too deep to be compared with an earlier message\'s is refused', async t => {
  const { url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  const deep = '['.repeat(50_000) + ']'.repeat(50_000)
  refused(t, await post(url, sessionId, deep, { key: 'k' }), 400, 'FST_SSE_DATA_TOO_DEEP')
})
