import t from 'tap'
import type { Awaitable, QueueResult, QueuedMessage, StoredResponse } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { findSession, openSession } from '../support/memory-stream.js'
import { testEachStore } from '../support/stores.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

// Requirements of the contract in lib/store/store.ts, on every store. If nodes can share the store, the tests use two nodes.

const createResponse = (body = 'null'): StoredResponse => ({ status: 200, headers: { 'x-test': 'yes' }, body })

/** Creates a message that is handled concurrently, and waits for the gate. */
function createConcurrentMessage (key: string | undefined, gate: Promise<void>, onStart: () => void = () => {}): QueuedMessage {
  return {
    ...createMessage(key, async () => {
      onStart()
      await gate
      return createResponse(key)
    }),
    isConcurrent: true
  }
}

function createMessage (key: string | undefined, handle: QueuedMessage['handle'], payload = 'payload'): QueuedMessage {
  return { key, fingerprint: () => payload, handle }
}

testEachStore(t, 'handles messages of a session one at a time, in order of arrival over all nodes', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const session = await openSession(nodeA)
  const handles = [session, await findSession(nodeB, session)] as const
  const order: number[] = []
  let running = 0
  const results: Array<Promise<QueueResult>> = []
  for (let n = 0; n < 20; n++) {
    const arrived = deferred()
    const handle = handles[n % 2] ?? session
    results.push((async () => await handle[kInternals].messageQueue.enqueue(createMessage(undefined, async () => {
      t.equal(++running, 1, 'no other handler runs at the same time')
      order.push(n)
      await new Promise(resolve => { setImmediate(resolve) })
      running--
      return createResponse(String(n))
    })))())
    // The message has arrived when a later call on the same connection has settled.
    handle.update({ n }).then(arrived.resolve, arrived.resolve)
    await withTimeout(arrived.promise, 'the arrival')
  }
  const handled = await withTimeout(Promise.all(results), 'all results')
  t.strictSame(order, Array.from({ length: 20 }, (_, n) => n))
  t.strictSame(handled.map(({ response }) => response.body), order.map(String))
})

testEachStore(t, 'a repeat receives the first response on any node, and waits for it while the handler runs', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  let handled = 0
  const gate = deferred()
  const handlerStarted = deferred()
  const first = session[kInternals].messageQueue.enqueue(createMessage('key', async () => {
    handled++
    handlerStarted.resolve()
    await gate.promise
    return createResponse('["ä",1,null]')
  }))
  await withTimeout(handlerStarted.promise, 'the handler')
  const concurrent = (async () => await remote[kInternals].messageQueue.enqueue(createMessage('key', () => createResponse('never'))))()
  await t.rejects(async () => await remote[kInternals].messageQueue.enqueue(createMessage('key', () => createResponse('never'), 'another payload')), { code: 'FST_SSE_IDEMPOTENCY_KEY_REUSED' })
  gate.resolve()
  const expected = { response: { status: 200, headers: { 'x-test': 'yes' }, body: '["ä",1,null]' } }
  t.match(await withTimeout(Promise.resolve(first), 'the first response'), { ...expected, replayed: false })
  t.match(await withTimeout(concurrent, 'the response to the concurrent repeat'), { ...expected, replayed: true })
  t.match(await remote[kInternals].messageQueue.enqueue(createMessage('key', () => createResponse('never'))), { ...expected, replayed: true })
  t.match(await session[kInternals].messageQueue.enqueue(createMessage('key', () => createResponse('never'))), { ...expected, replayed: true })
  t.equal(handled, 1)
})

testEachStore(t, 'stores the response to an error of the handler, and stores nothing for a refused message', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const failed = { status: 409, headers: {}, body: 'no' }
  await session[kInternals].messageQueue.enqueue(createMessage('failed', () => failed))
  t.strictSame(await remote[kInternals].messageQueue.enqueue(createMessage('failed', () => createResponse())), { replayed: true, response: failed })
  await t.rejects(async () => await session[kInternals].messageQueue.enqueue(createMessage('refused', () => { throw new Error('refused') })), { message: 'refused' })
  t.match(await remote[kInternals].messageQueue.enqueue(createMessage('refused', () => createResponse('now'))), { replayed: false, response: { body: 'now' } })
})

testEachStore(t, 'stores the latest responses up to maxIdempotencyKeys', async (t, store) => {
  const options = { maxIdempotencyKeys: 2 }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const session = await openSession(nodeA)
  for (const key of ['a', 'b', 'c']) await session[kInternals].messageQueue.enqueue(createMessage(key, () => createResponse(key)))
  const remote = await findSession(nodeB, session)
  t.match(await remote[kInternals].messageQueue.enqueue(createMessage('b', () => createResponse('again'))), { replayed: true })
  t.match(await remote[kInternals].messageQueue.enqueue(createMessage('c', () => createResponse('again'))), { replayed: true })
  t.match(await remote[kInternals].messageQueue.enqueue(createMessage('a', () => createResponse('again'))), { replayed: false })
})

testEachStore(t, 'the latest responses are those to the messages that were handled last, and messages that are being handled do not count', async (t, store) => {
  const { messageQueue } = (await openSession(await store.addNode({ maxIdempotencyKeys: 2 })))[kInternals]
  const send = async (key: string, handle = (): Awaitable<StoredResponse> => createResponse(key)): Promise<QueueResult> => await messageQueue.enqueue({ ...createMessage(key, handle), isConcurrent: true })
  const gate = deferred()
  const started = deferred()
  const slow = send('slow', async () => {
    started.resolve()
    await gate.promise
    return createResponse('slow')
  })
  await withTimeout(started.promise, 'the slow handler')
  for (const key of ['a', 'b', 'c']) await send(key)
  for (const key of ['b', 'c']) t.match(await send(key), { replayed: true }, key)
  gate.resolve()
  t.match(await withTimeout(slow, 'the slow response'), { replayed: false })
  for (const key of ['slow', 'c']) t.match(await send(key), { replayed: true }, key)
  t.match(await send('b'), { replayed: false })
})

testEachStore(t, 'a repeat that waits gets the response even if newer keys exceed maxIdempotencyKeys, and the key is dropped after that', async (t, store) => {
  const options = { maxIdempotencyKeys: 1 }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const [started, gate] = [deferred(), deferred()]
  const batch = await session[kInternals].messageQueue.enqueueAll([
    createMessage('a', async () => {
      started.resolve()
      await gate.promise
      return createResponse('a')
    }),
    createMessage('b', () => createResponse('b')),
    createMessage('c', () => createResponse('c'))
  ])
  await withTimeout(started.promise, 'the first handler')
  const repeat = (async () => await remote[kInternals].messageQueue.enqueue(createMessage('a', () => createResponse('again'))))()
  // The repeat has arrived when a later call on the same connection has settled.
  await remote.update({})
  gate.resolve()
  await withTimeout(Promise.all(batch), 'the batch')
  t.match(await withTimeout(repeat, 'the repeat'), { replayed: true, response: { body: 'a' } })
  for (const key of ['d', 'e']) await remote[kInternals].messageQueue.enqueue(createMessage(key, () => createResponse(key)))
  t.match(await session[kInternals].messageQueue.enqueue(createMessage('a', () => createResponse('again'))), { replayed: false })
})

testEachStore(t, 'dropped responses do not count for maxResponseBytes', async (t, store) => {
  const node = await store.addNode({ maxIdempotencyKeys: 1, maxResponseBytes: 600 })
  const { [kInternals]: { messageQueue } } = await openSession(node)
  const response = { status: 200, headers: { 'content-type': 'application/json; charset=utf-8' }, body: `"${'x;'.repeat(50)}"` }
  for (let n = 0; n < 20; n++) {
    const key = `key ${n}`
    await messageQueue.enqueue(createMessage(key, () => response))
    t.match(await messageQueue.enqueue(createMessage(key, () => createResponse('again'))), { replayed: true }, key)
  }
})

testEachStore(t, 'repeats that wait for a response count for maxWaitingMessages', async (t, store) => {
  const node = await store.addNode({ maxWaitingMessages: 2 })
  const { [kInternals]: { messageQueue } } = await openSession(node)
  const [started, gate] = [deferred(), deferred()]
  const enqueue = async (): Promise<QueueResult> => await messageQueue.enqueue(createMessage('key', async () => {
    started.resolve()
    await gate.promise
    return createResponse('done')
  }))
  const first = enqueue()
  await withTimeout(started.promise, 'the handler')
  const repeats = [enqueue(), enqueue()]
  await t.rejects(enqueue(), { code: 'FST_SSE_TOO_MANY_WAITING' })
  gate.resolve()
  await withTimeout(Promise.all([first, ...repeats]), 'the responses')
  t.match(await enqueue(), { replayed: true })
})

testEachStore(t, 'the messages that wait have at most maxWaitingBytes, but the first one may have any size', async (t, store) => {
  const node = await store.addNode({ maxWaitingBytes: 100 })
  const { [kInternals]: { messageQueue } } = await openSession(node)
  const [started, gate] = [deferred(), deferred()]
  const first = (async () => await messageQueue.enqueue(createMessage(undefined, async () => {
    started.resolve()
    await gate.promise
    return createResponse('first')
  })))()
  await withTimeout(started.promise, 'the handler')
  const enqueue = async (size: number): Promise<QueueResult> => await messageQueue.enqueue({ ...createMessage(undefined, () => createResponse(String(size))), size: () => size })
  const large = enqueue(200)
  await t.rejects(enqueue(1), { code: 'FST_SSE_TOO_MANY_WAITING' })
  await t.rejects(async () => await messageQueue.enqueueAll([{ ...createMessage(undefined, () => createResponse('never')), size: () => 1 }]), { code: 'FST_SSE_TOO_MANY_WAITING' })
  gate.resolve()
  t.match(await withTimeout(Promise.all([first, large]), 'the responses'), [{ response: { body: 'first' } }, { response: { body: '200' } }])
  t.match(await enqueue(1), { response: { body: '1' } })
})

testEachStore(t, 'while only concurrent messages are handled, one message or batch may have any size', async (t, store) => {
  const node = await store.addNode({ maxWaitingBytes: 100 })
  const { [kInternals]: { messageQueue } } = await openSession(node)
  const gate = deferred()
  const enqueue = async (size: number, isConcurrent: boolean, started = deferred()): Promise<QueueResult> => await messageQueue.enqueue({
    ...createMessage(undefined, async () => {
      started.resolve()
      await gate.promise
      return createResponse(String(size))
    }),
    size: () => size,
    isConcurrent
  })
  const [isRunning, isHandled] = [deferred(), deferred()]
  const results = [enqueue(50, true, isRunning)]
  await withTimeout(isRunning.promise, 'the concurrent handler')
  const batch = await messageQueue.enqueueAll([0, 1].map(n => ({ ...createMessage(undefined, () => createResponse(String(n))), size: () => 200 })))
  t.match(await withTimeout(Promise.all(batch), 'the batch'), [{ response: { body: '0' } }, { response: { body: '1' } }])
  results.push(enqueue(200, false, isHandled))
  await withTimeout(isHandled.promise, 'the handler')
  results.push(enqueue(200, false))
  await t.rejects(enqueue(1, false), { code: 'FST_SSE_TOO_MANY_WAITING' })
  gate.resolve()
  t.match(await withTimeout(Promise.all(results), 'the responses'), ['50', '200', '200'].map(body => ({ response: { body } })))
})

testEachStore(t, 'enqueues several messages without others between them, and limits how many wait', async (t, store) => {
  const options = { maxWaitingMessages: 3 }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const gate = deferred()
  const order: string[] = []
  const createWaitingMessage = (name: string): QueuedMessage => createMessage(name, async () => {
    order.push(name)
    await gate.promise
    return createResponse(name)
  })
  const first = (async () => await session[kInternals].messageQueue.enqueue(createWaitingMessage('first')))()
  await waitUntil(() => order.length === 1, 'the first handler')
  const batch = (async () => await Promise.all(await remote[kInternals].messageQueue.enqueueAll([createWaitingMessage('a'), createWaitingMessage('b')])))()
  await remote.update({})
  const last = (async () => await session[kInternals].messageQueue.enqueue(createWaitingMessage('last')))()
  await session.update({})
  await t.rejects(async () => await remote[kInternals].messageQueue.enqueue(createWaitingMessage('too many')), { code: 'FST_SSE_TOO_MANY_WAITING' })
  await t.rejects(async () => await session[kInternals].messageQueue.enqueueAll([createWaitingMessage('far'), createWaitingMessage('too many')]), { code: 'FST_SSE_TOO_MANY_WAITING' })
  gate.resolve()
  await withTimeout(Promise.all([first, batch, last]), 'all results')
  t.strictSame(order, ['first', 'a', 'b', 'last'])
})

testEachStore(t, 'keys that a store keeps next to a session are not found as sessions, for any idempotency key', async (t, store) => {
  const node = await store.addNode()
  const session = await openSession(node)
  await session.send(1)
  for (const key of ['startPosition', 'owner', 'd:admin']) await session[kInternals].messageQueue.enqueue(createMessage(key, () => createResponse('done')))
  for (const part of ['log', 'keys', 'order', 'queue']) t.equal(await node.find(`${session.id}:${part}`), undefined)
})

testEachStore(t, 'handles concurrent messages at once, once per key, and no other message waits for them', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const gates = [deferred(), deferred()] as const
  const started: string[] = []
  const enqueue = async ({ [kInternals]: { messageQueue } }: typeof session, message: QueuedMessage): Promise<QueueResult> => await messageQueue.enqueue(message)
  const ordered = enqueue(session, createMessage('ordered', async () => {
    started.push('ordered')
    await gates[0].promise
    return createResponse('ordered')
  }))
  await waitUntil(() => started.length === 1, 'the ordered message')
  const concurrent = enqueue(remote, createConcurrentMessage('concurrent', gates[1].promise, () => { started.push('concurrent') }))
  await waitUntil(() => started.includes('concurrent'), 'the concurrent message')
  const repeat = enqueue(session, createConcurrentMessage('concurrent', gates[1].promise, () => { started.push('repeat') }))
  const [next, inBatch] = await remote[kInternals].messageQueue.enqueueAll([createMessage('next', () => createResponse('next')), createConcurrentMessage('in batch', Promise.resolve(), () => { started.push('in batch') })])
  t.match(await withTimeout(inBatch as Promise<QueueResult>, 'the concurrent message of the batch'), { replayed: false, response: { body: 'in batch' } })
  gates[0].resolve()
  t.match(await withTimeout(Promise.all([ordered, next]), 'the messages in order'), [{ response: { body: 'ordered' } }, { response: { body: 'next' } }])
  gates[1].resolve()
  t.match(await withTimeout(Promise.all([concurrent, repeat]), 'the concurrent message and its repeat'), [{ replayed: false }, { replayed: true, response: { body: 'concurrent' } }])
  t.strictSame(started.sort(), ['concurrent', 'in batch', 'ordered'])
  await t.rejects(enqueue(remote, { ...createConcurrentMessage('concurrent', Promise.resolve()), fingerprint: () => 'other' }), { code: 'FST_SSE_IDEMPOTENCY_KEY_REUSED' })
  t.match(await enqueue(remote, createConcurrentMessage('concurrent', Promise.resolve())), { replayed: true })
})

testEachStore(t, 'concurrent messages that are being handled count for maxWaitingMessages', async (t, store) => {
  const options = { maxWaitingMessages: 2 }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const gate = deferred()
  const full = { code: 'FST_SSE_TOO_MANY_WAITING', statusCode: 429 }
  const started: string[] = []
  const run = async (handle: typeof session, key: string): Promise<QueueResult> => await handle[kInternals].messageQueue.enqueue(createConcurrentMessage(key, gate.promise, () => { started.push(key) }))
  const results = [run(session, 'a'), run(remote, 'b'), run(session, 'c')]
  await waitUntil(() => started.length === 3, 'one message, and two more')
  await t.rejects(run(remote, 'd'), full)
  await t.rejects(async () => await remote[kInternals].messageQueue.enqueue(createMessage('e', () => createResponse('e'))), full)
  await t.rejects(async () => await session[kInternals].messageQueue.enqueueAll([createMessage('f', () => createResponse('f'))]), full)
  await t.rejects(async () => await Promise.all(await session[kInternals].messageQueue.enqueueAll([createConcurrentMessage('g', gate.promise)])), full)
  gate.resolve()
  await withTimeout(Promise.all(results), 'all results')
  t.match(await remote[kInternals].messageQueue.enqueue(createMessage('e', () => createResponse('e'))), { replayed: false, response: { body: 'e' } })
})
