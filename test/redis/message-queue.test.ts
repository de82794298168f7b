import t from 'tap'
import { kStream } from '../../lib/sessions/session.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { createMessage, createResponse, recordHandlers, startGatedMessage } from './support/messages.js'
import { beforeOrders } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { farProcess } from '../support/stores.js'
import { signal, until, within } from '../support/wait.js'

t.test('a response that is published while another request is pending goes to its own message', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeA } = await farProcess(t, redis)
  const { sessions: nodeB, holdAnswers, settled } = await farProcess(t, redis)
  const session = await openSession(nodeA)
  const down = await stream(nodeB, await openSession(nodeB))
  const remote = await handleOf(nodeB, session)
  const queue = `{sse}:s:${session.id}:queue`
  const { gate, handled, handle, running } = startGatedMessage(session)
  await until(async () => await redis.ask('LLEN', queue) === 1, 'the first message to run')
  const repeat = remote[kStream].messageQueue.enqueue(createMessage('a', handle('repeat')))
  await settled()
  holdAnswers(true)
  const batch = remote[kStream].messageQueue.enqueueAll([createMessage('a', handle('repeat')), createMessage('b', handle('b'))])
  await until(async () => await redis.ask('LLEN', queue) === 2, 'the batch to be queued')
  gate.resolve()
  await running
  // When the broadcast arrives, the response has been published.
  await nodeA.broadcast('message', 1)
  await until(() => down.messages().length === 1, 'the broadcast')
  holdAnswers(false)
  await repeat
  const [first, second] = await batch
  t.match(await first, { replayed: true, response: { body: 'a' } })
  t.match(await second, { replayed: false, response: { body: 'b' } })
  t.strictSame(handled, ['b'])
  t.match(await within(Promise.resolve(session[kStream].messageQueue.enqueue(createMessage(undefined, handle('c')))), 'the next message'), { response: { body: 'c' } })
})

t.test('a closing node rejects queued messages and waits for its running handlers', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeA } = await farProcess(t, redis)
  const { sessions: nodeB } = await farProcess(t, redis)
  const [session, other] = [await openSession(nodeA), await openSession(nodeB)]
  const remote = await handleOf(nodeB, session)
  const gates = [signal(), signal()] as const
  const running = session[kStream].messageQueue.enqueue(createMessage(undefined, async () => {
    await gates[0].promise
    return createResponse('first')
  }))
  const handled = other[kStream].messageQueue.enqueue(createMessage('key', async () => {
    await gates[1].promise
    await other.send('from the handler')
    return createResponse('second')
  }))
  const queue = `{sse}:s:${session.id}:queue`
  await until(async () => await redis.ask('LLEN', queue) === 1, 'the first message to run')
  const queued = (async () => await remote[kStream].messageQueue.enqueue(createMessage(undefined, () => createResponse('never'))))()
  queued.catch(() => {})
  await until(async () => await redis.ask('LLEN', queue) === 2, 'the message to be queued')
  const closed = nodeB.close()
  await t.rejects(within(queued, 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  gates[1].resolve()
  t.match(await handled, { response: { body: 'second' } })
  await closed
  const repeat = (await handleOf(nodeA, other))[kStream].messageQueue.enqueue(createMessage('key', () => createResponse('second run')))
  t.match(await repeat, { replayed: true, response: { body: 'second' } })
  gates[0].resolve()
  t.match(await running, { response: { body: 'first' } })
})

t.test('a closing node rejects queued messages and messages that are being enqueued', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeA } = await farProcess(t, redis)
  const { sessions: nodeB, settled } = await farProcess(t, redis)
  const session = await openSession(nodeA)
  const queue = `{sse}:s:${session.id}:queue`
  const { gate, handled, handle, running } = startGatedMessage(session)
  await until(async () => await redis.ask('LLEN', queue) === 1, 'the first message to run')
  const { messageQueue } = (await handleOf(nodeB, session))[kStream]
  const queued = Promise.resolve(messageQueue.enqueue(createMessage(undefined, handle('queued'))))
  queued.catch(() => {})
  await until(async () => await redis.ask('LLEN', queue) === 2, 'the message to be queued')
  await settled()
  const pending = Promise.resolve(messageQueue.enqueue(createMessage(undefined, handle('pending'))))
  pending.catch(() => {})
  await nodeB.close()
  for (const result of [queued, pending]) await t.rejects(within(result, 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  gate.resolve()
  await running
  t.strictSame(handled, [])
})

t.test('a message whose enqueueing timed out does not block later messages', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeA } = await farProcess(t, redis)
  const { sessions: nodeB, holdAnswers } = await farProcess(t, redis)
  const session = await openSession(nodeA)
  const remote = await handleOf(nodeB, session)
  const { handled, handle } = recordHandlers()
  holdAnswers(true)
  await t.rejects(within(Promise.resolve(remote[kStream].messageQueue.enqueue(createMessage(undefined, handle('timed out')))), 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  holdAnswers(false)
  await within(Promise.resolve(session[kStream].messageQueue.enqueue(createMessage(undefined, handle('next')))), 'the next message')
  t.strictSame(handled, ['next'])
})

t.test('a closing node rejects a repeat whose first message runs on another node', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeA } = await farProcess(t, redis)
  const { sessions: nodeB, client } = await farProcess(t, redis)
  const { sessions: nodeC } = await farProcess(t, redis)
  const session = await openSession(nodeA)
  const queue = `{sse}:s:${session.id}:queue`
  const { gate, handle, running } = startGatedMessage(session)
  await until(async () => await redis.ask('LLEN', queue) === 1, 'the first message to run')
  const [first = ''] = await redis.ask('LRANGE', queue, '0', '0') as string[]
  const [repeat, other] = await (await handleOf(nodeB, session))[kStream].messageQueue.enqueueAll([createMessage('a', handle('first')), createMessage('b', handle('b'))])
  const sent = signal()
  let isRequested = false
  beforeOrders(client, orders => {
    if (!orders.some(({ operation }) => operation === 'begin')) return undefined
    isRequested = true
    return sent.promise
  })
  await until(() => isRequested, 'the retry')
  await redis.ask('ZREM', '{sse}:nodes', first.slice(0, first.indexOf(' ')))
  const repeatOnNodeC = (await handleOf(nodeC, session))[kStream].messageQueue.enqueue(createMessage('a', async () => {
    await gate.promise
    return createResponse('node C')
  }))
  await until(async () => !(await redis.ask('LRANGE', queue, '0', '-1') as string[]).includes(first), 'the dead node to be detected')
  const closed = nodeB.close()
  sent.resolve()
  await t.rejects(within(repeat as Promise<unknown>, 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  t.match(await other, { response: { body: 'b' } })
  await closed
  gate.resolve()
  await Promise.all([running, repeatOnNodeC])
})

t.test('checks the lease of a node once per heartbeat, however many messages wait for it', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeA } = await farProcess(t, redis)
  const { sessions: nodeB } = await farProcess(t, redis)
  const session = await openSession(nodeA)
  const remote = await handleOf(nodeB, session)
  const { gate, handle, running } = startGatedMessage(session)
  const queue = `{sse}:s:${session.id}:queue`
  const countLeaseChecks = async (): Promise<number> => Number(/calls=(\d+)/.exec((await redis.info('commandstats')).cmdstat_zscore ?? '')?.[1] ?? 0)
  const names = Array.from({ length: 20 }, (_, n) => `key ${n}`)
  const waiting = names.map(name => session[kStream].messageQueue.enqueue(createMessage(name, handle(name))))
  await until(async () => await redis.ask('LLEN', queue) === 21, 'the messages to be queued')
  const before = await countLeaseChecks()
  const repeats = remote[kStream].messageQueue.enqueueAll([...names.map(name => createMessage(name, handle('repeat'))), createMessage(undefined, handle('last'))])
  await until(async () => await redis.ask('LLEN', queue) === 22, 'the batch to be queued')
  t.ok(await countLeaseChecks() - before <= 3, 'one check, and one more per heartbeat')
  gate.resolve()
  await Promise.all([running, ...waiting, ...await repeats])
})
