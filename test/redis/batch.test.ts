import t from 'tap'
import { kStream } from '../../lib/sessions/session.js'
import { handleOf, openSession } from '../support/memory-client.js'
import { accepted, letter, recorder, runOne } from './support/messages.js'
import { beforeOrders } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { farProcess } from '../support/stores.js'
import { signal, until, within } from '../support/wait.js'

t.test('a batch may repeat itself, and what is being handled elsewhere', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two } = await farProcess(t, redis)
  const session = await openSession(one)
  const afar = await handleOf(two, session)
  const { gate, handled, handle, running } = runOne(session)
  await until(async () => await redis.ask('LLEN', `{sse}:s:${session.id}:queue`) === 1, 'the first to run')
  const other = { ...letter('b', handle('other')), fingerprint: () => 'other' }
  const batch = await afar[kStream].messageQueue.enqueueAll([letter('a', handle('repeat')), letter('b', handle('b')), letter('b', handle('twin')), other, letter(undefined, handle('c'))])
  for (const delivery of batch) delivery.catch(() => {})
  // It is asked for again and again meanwhile.
  for (let number = 1; number < 4; number++) {
    await until(() => two.size === number, 'the next tick')
    await openSession(one)
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

t.test('messages without keys are handled in turn, and their batch is settled once', needsRedis, async t => {
  const { sessions, client } = await farProcess(t, await startRedis(t))
  const session = await openSession(sessions)
  const settled: string[] = []
  beforeOrders(client, orders => {
    for (const { operation, args } of orders) if (operation === 'settle') settled.push(args.slice(2).join())
  })
  const { handled, handle } = recorder()
  const batch = await session[kStream].messageQueue.enqueueAll(['a', 'b', 'c'].map(name => letter(undefined, handle(name))))
  await within(Promise.all(batch), 'the answers')
  t.strictSame(handled, ['a', 'b', 'c'])
  await session.send('settled')
  t.strictSame(settled, ['1'])
})

t.test('a batch does not wait for one behind it, of which a message of its own is a repeat', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two, proxy } = await farProcess(t, redis)
  const { sessions: three } = await farProcess(t, redis)
  const session = await openSession(one)
  const queue = `{sse}:s:${session.id}:queue`
  const { gate, handled, handle, running } = runOne(session)
  await until(async () => await redis.ask('LLEN', queue) === 1, 'the first to run')
  const [first = ''] = await redis.ask('LRANGE', queue, '0', '0') as string[]
  const batch = await (await handleOf(two, session))[kStream].messageQueue.enqueueAll([letter('a', handle('first')), letter('b', handle('b'))])
  // The process that handles the first is taken for dead, and another asks before the batch does.
  proxy.connections[0]?.client.pause()
  await redis.ask('ZREM', '{sse}:nodes', first.slice(0, first.indexOf(' ')))
  const again = (await handleOf(three, session))[kStream].messageQueue.enqueue(letter('a', handle('a')))
  await until(async () => !(await redis.ask('LRANGE', queue, '0', '-1') as string[]).includes(first), 'it to be found dead')
  proxy.connections[0]?.client.resume()
  t.match(await within(Promise.all([...batch, again]), 'the answers'), [
    { replayed: true, response: { body: 'a' } },
    { replayed: false, response: { body: 'b' } },
    { replayed: false, response: { body: 'a' } }
  ])
  t.strictSame(handled, ['b', 'a'])
  gate.resolve()
  await running
})

/** A batch of which the first message waits at a gate; answers with the messages that were handled, by their numbers. */
function batchOf (count: number, gate: Promise<void>) {
  const handled: number[] = []
  const letters = Array.from({ length: count }, (_, n) => letter(`key ${n}`, async () => {
    handled.push(n)
    await gate
    return accepted(String(n))
  }))
  return { handled, letters }
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, n) => from + n)

t.test('a batch runs ahead of what Redis has kept, but not far', needsRedis, async t => {
  const { sessions, holdAnswers } = await farProcess(t, await startRedis(t))
  const session = await openSession(sessions)
  const gate = signal()
  const { handled, letters } = batchOf(30, gate.promise)
  const deliveries = await session[kStream].messageQueue.enqueueAll(letters)
  await until(() => handled.length === 1, 'the first')
  holdAnswers(true)
  gate.resolve()
  await until(() => handled.length > 1, 'the others')
  t.strictSame(handled, range(0, 9))
  holdAnswers(false)
  await Promise.all(deliveries)
  t.strictSame(handled, range(0, 30))
})

t.test('of a batch whose process is taken for dead, what it has not begun to handle is left to others', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one, proxy } = await farProcess(t, redis, {}, { lease: 500 })
  const { sessions: two } = await farProcess(t, redis, {}, { lease: 500 })
  const session = await openSession(one)
  const gate = signal()
  const here = batchOf(30, gate.promise)
  const deliveries = await session[kStream].messageQueue.enqueueAll(here.letters)
  for (const delivery of deliveries) delivery.catch(() => {})
  await until(() => here.handled.length === 1, 'the first')
  for (const { client } of proxy.connections) client.pause()
  await until(async () => await redis.ask('ZCARD', '{sse}:nodes') === 1, 'it to be taken for dead')
  gate.resolve()
  const there = batchOf(30, Promise.resolve())
  const afar = await handleOf(two, session)
  for (const delivery of await afar[kStream].messageQueue.enqueueAll(there.letters)) t.match(await delivery, { replayed: false })
  for (const { client } of proxy.connections) client.resume()
  await t.rejects(within(deliveries[29] as Promise<unknown>, 'the refusal'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  t.strictSame(here.handled, range(0, 9))
  t.strictSame(there.handled, range(0, 30))
})
