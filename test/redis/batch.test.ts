import t from 'tap'
import type { Sessions } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { findSession, openSession } from '../support/memory-stream.js'
import { openTwoNodes, pauseUntilExpired } from './support/two-nodes.js'
import { createMessage, createResponse, readQueue, recordHandlers, startGatedMessage } from './support/messages.js'
import { skewClock } from '../support/clock.js'
import { interceptStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openProxiedNode } from '../support/stores.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'

t.test('a batch may contain repeats of its own messages and of a message that runs on another node', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const { gate, started, handled, handle, running } = startGatedMessage(session)
  await withTimeout(started, 'the first message')
  const other = { ...createMessage('b', handle('other')), fingerprint: () => 'other' }
  const batch = await remote[kInternals].messageQueue.enqueueAll([createMessage('a', handle('repeat')), createMessage('b', handle('b')), createMessage('b', handle('duplicate')), other, createMessage(undefined, handle('c'))])
  for (const result of batch) result.catch(() => {})
  // Each heartbeat retries the batch. Three heartbeats pass while the first message runs.
  for (let number = 1; number < 4; number++) {
    await waitUntil(() => nodeB.size === number, 'the next heartbeat')
    await openSession(nodeA)
  }
  t.strictSame(handled, [])
  gate.resolve()
  await running
  t.match(await batch[0], { replayed: true, response: { body: 'a' } })
  t.match(await batch[1], { replayed: false, response: { body: 'b' } })
  t.match(await batch[2], { replayed: true, response: { body: 'b' } })
  await t.rejects(batch[3] as Promise<unknown>, { code: 'FST_SSE_IDEMPOTENCY_KEY_REUSED' })
  t.match(await batch[4], { replayed: false, response: { body: 'c' } })
  t.strictSame(handled, ['b', 'c'])
})

t.test('handles messages without keys in order, and settles their batch once', needsRedis, async t => {
  const { sessions, client } = await openProxiedNode(t, await startRedis(t))
  const session = await openSession(sessions)
  const settled: string[] = []
  interceptStoreCommands(client, storeCommands => {
    for (const { operation, args } of storeCommands) if (operation === 'complete') settled.push(args.slice(2).join())
  })
  const { handled, handle } = recordHandlers()
  const batch = await session[kInternals].messageQueue.enqueueAll(['a', 'b', 'c'].map(name => createMessage(undefined, handle(name))))
  await withTimeout(Promise.all(batch), 'the responses')
  t.strictSame(handled, ['a', 'b', 'c'])
  await session.send('settled')
  t.strictSame(settled, ['1'])
})

for (const earlier of [[], ['z']]) {
  t.test(`no message of a batch is handled before the original of a repeat before it: a batch of ${earlier.length + 2}`, needsRedis, async t => {
    const redis = await startRedis(t)
    // So long that the second node does not lose its lease while its connection is paused.
    const openNode = (): ReturnType<typeof openProxiedNode> => openProxiedNode(t, redis, {}, { lease: 60_000 })
    const { sessions: nodeA } = await openNode()
    const { sessions: nodeB, proxy } = await openNode()
    const { sessions: nodeC } = await openNode()
    const session = await openSession(nodeA)
    const { gate, started, handled, handle, running } = startGatedMessage(session)
    await withTimeout(started, 'the first message')
    const [first = ''] = await readQueue(redis, session.id)
    const enqueue = async (node: Sessions, keys: readonly string[], nodeName: string): Promise<Array<Promise<unknown>>> => {
      const results = await (await findSession(node, session))[kInternals].messageQueue.enqueueAll(keys.map(key => createMessage(key, handle(`${key} on ${nodeName}`))))
      return results.map(result => result.then(({ replayed, response }) => [replayed, response.body], ({ code }) => code as unknown))
    }
    const batchOnNodeB = await enqueue(nodeB, [...earlier, 'a', 'b'], 'B')
    // The node of the first message counts as dead, and a third node enqueues the batch again before the second retries it.
    proxy.connections[0]?.client.pause()
    await redis.sendCommand('ZREM', '{sse}:nodes', first.slice(0, first.indexOf(' ')))
    const batchOnNodeC = await enqueue(nodeC, ['a', 'b'], 'C')
    await waitUntil(async () => !(await readQueue(redis, session.id)).includes(first), 'the dead node to be detected')
    proxy.connections[0]?.client.resume()
    t.strictSame(await withTimeout(Promise.all([...batchOnNodeB, ...batchOnNodeC]), 'the results'), [
      ...earlier.map(key => [false, `${key} on B`]), [true, 'a on C'], 'FST_SSE_STORE_UNAVAILABLE',
      [false, 'a on C'], [false, 'b on C']
    ])
    t.strictSame(handled, [...earlier.map(key => `${key} on B`), 'a on C', 'b on C'])
    gate.resolve()
    await running
  })
}

/** Creates messages whose handlers wait for a gate, and records the numbers of the handled messages. */
function createBatch (count: number, gate: Promise<void>) {
  const handled: number[] = []
  const messages = Array.from({ length: count }, (_, n) => createMessage(`key ${n}`, async () => {
    handled.push(n)
    await gate
    return createResponse(String(n))
  }))
  return { handled, messages }
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, n) => from + n)

t.test('a batch runs at most nine messages ahead of the responses that Redis has confirmed', needsRedis, async t => {
  const { sessions, pauseReplies } = await openProxiedNode(t, await startRedis(t))
  const session = await openSession(sessions)
  const gate = deferred()
  const { handled, messages } = createBatch(30, gate.promise)
  const results = await session[kInternals].messageQueue.enqueueAll(messages)
  await waitUntil(() => handled.length === 1, 'the first message')
  pauseReplies(true)
  gate.resolve()
  await waitUntil(() => handled.length > 1, 'more messages')
  t.strictSame(handled, range(0, 9))
  pauseReplies(false)
  await Promise.all(results)
  t.strictSame(handled, range(0, 30))
})

t.test('if a node loses its lease during a batch, another node handles the remaining messages', needsRedis, async t => {
  const [redis, node, { sessions: nodeB }] = await openTwoNodes(t, {}, { lease: 500 })
  const { sessions: nodeA, proxy } = node
  const session = await openSession(nodeA)
  const gate = deferred()
  const batchA = createBatch(30, gate.promise)
  const results = await session[kInternals].messageQueue.enqueueAll(batchA.messages)
  for (const result of results) result.catch(() => {})
  await waitUntil(() => batchA.handled.length === 1, 'the first message')
  await pauseUntilExpired(redis, node)
  gate.resolve()
  const batchB = createBatch(30, Promise.resolve())
  const remote = await findSession(nodeB, session)
  for (const result of await remote[kInternals].messageQueue.enqueueAll(batchB.messages)) t.match(await result, { replayed: false })
  for (const { client } of proxy.connections) client.resume()
  await t.rejects(withTimeout(results[29] as Promise<unknown>, 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  t.strictSame(batchA.handled, [0])
  t.strictSame(batchB.handled, range(0, 30))
})

t.test('if half of the lease ends before a message of a batch, no later message of the batch starts', needsRedis, async t => {
  const advance = skewClock(t, Date)
  const { sessions, client } = await openProxiedNode(t, await startRedis(t), {}, { lease: 60_000 })
  const session = await openSession(sessions)
  const gate = deferred()
  const handled: number[] = []
  const results = await session[kInternals].messageQueue.enqueueAll([0, 1, 2].map(n => createMessage(undefined, async () => {
    handled.push(n)
    await gate.promise
    return createResponse(String(n))
  })))
  await waitUntil(() => handled.length === 1, 'the first message')
  // From now on, no heartbeat succeeds until a message is refused.
  let isRefused = false
  const outcomes = results.map(result => result.then(() => 'handled', ({ code }) => {
    isRefused = true
    return code as string
  }))
  interceptStoreCommands(client, async storeCommands => {
    await nextEventLoopTick()
    if (!isRefused && storeCommands.some(({ operation }) => operation === 'heartbeat')) throw new Error('lost')
  })
  advance(31_000)
  gate.resolve()
  t.strictSame(await withTimeout(Promise.all(outcomes), 'the outcomes'), ['handled', 'FST_SSE_STORE_UNAVAILABLE', 'FST_SSE_STORE_UNAVAILABLE'])
  t.strictSame(handled, [0])
})
