import t from 'tap'
import { kStream } from '../../lib/sessions/session.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { accepted, letter, recorder, runOne } from './support/messages.js'
import { beforeOrders } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { farProcess } from '../support/stores.js'
import { signal, until, within } from '../support/wait.js'

t.test('an outcome that is told while another question is on its way is that of its own message', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two, holdAnswers, settled } = await farProcess(t, redis)
  const session = await openSession(one)
  const down = await stream(two, await openSession(two))
  const afar = await handleOf(two, session)
  const queue = `{sse}:s:${session.id}:queue`
  const { gate, handled, handle, running } = runOne(session)
  await until(async () => await redis.ask('LLEN', queue) === 1, 'the first to run')
  const repeat = afar[kStream].messageQueue.enqueue(letter('a', handle('repeat')))
  await settled()
  holdAnswers(true)
  const batch = afar[kStream].messageQueue.enqueueAll([letter('a', handle('repeat')), letter('b', handle('b'))])
  await until(async () => await redis.ask('LLEN', queue) === 2, 'the batch to wait')
  gate.resolve()
  await running
  // By then the outcome has been told.
  await one.broadcast('message', 1)
  await until(() => down.messages().length === 1, 'the broadcast')
  holdAnswers(false)
  await repeat
  const [first, second] = await batch
  t.match(await first, { replayed: true, response: { body: 'a' } })
  t.match(await second, { replayed: false, response: { body: 'b' } })
  t.strictSame(handled, ['b'])
  t.match(await within(Promise.resolve(session[kStream].messageQueue.enqueue(letter(undefined, handle('c')))), 'the next'), { response: { body: 'c' } })
})

t.test('a process that closes refuses the messages that wait, and goes when those are done that it handles', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two } = await farProcess(t, redis)
  const [session, other] = [await openSession(one), await openSession(two)]
  const afar = await handleOf(two, session)
  const gates = [signal(), signal()] as const
  const running = session[kStream].messageQueue.enqueue(letter(undefined, async () => {
    await gates[0].promise
    return accepted('first')
  }))
  const handled = other[kStream].messageQueue.enqueue(letter('key', async () => {
    await gates[1].promise
    await other.send('from the handler')
    return accepted('second')
  }))
  const queue = `{sse}:s:${session.id}:queue`
  await until(async () => await redis.ask('LLEN', queue) === 1, 'the first to run')
  const waits = (async () => await afar[kStream].messageQueue.enqueue(letter(undefined, () => accepted('never'))))()
  waits.catch(() => {})
  await until(async () => await redis.ask('LLEN', queue) === 2, 'it to wait')
  const closed = two.close()
  await t.rejects(within(waits, 'the refusal'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  gates[1].resolve()
  t.match(await handled, { response: { body: 'second' } })
  await closed
  const again = (await handleOf(one, other))[kStream].messageQueue.enqueue(letter('key', () => accepted('again')))
  t.match(await again, { replayed: true, response: { body: 'second' } })
  gates[0].resolve()
  t.match(await running, { response: { body: 'first' } })
})

t.test('a process that closes refuses what waits, and what is only being asked for', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two, settled } = await farProcess(t, redis)
  const session = await openSession(one)
  const queue = `{sse}:s:${session.id}:queue`
  const { gate, handled, handle, running } = runOne(session)
  await until(async () => await redis.ask('LLEN', queue) === 1, 'the first to run')
  const { messageQueue: mailbox } = (await handleOf(two, session))[kStream]
  const waits = Promise.resolve(mailbox.enqueue(letter(undefined, handle('waits'))))
  waits.catch(() => {})
  await until(async () => await redis.ask('LLEN', queue) === 2, 'it to wait')
  await settled()
  const asks = Promise.resolve(mailbox.enqueue(letter(undefined, handle('asks'))))
  asks.catch(() => {})
  await two.close()
  for (const refused of [waits, asks]) await t.rejects(within(refused, 'the refusal'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  gate.resolve()
  await running
  t.strictSame(handled, [])
})

t.test('a message that is given up without an answer holds up nobody', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two, holdAnswers } = await farProcess(t, redis)
  const session = await openSession(one)
  const afar = await handleOf(two, session)
  const { handled, handle } = recorder()
  holdAnswers(true)
  await t.rejects(within(Promise.resolve(afar[kStream].messageQueue.enqueue(letter(undefined, handle('given up')))), 'the refusal'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  holdAnswers(false)
  await within(Promise.resolve(session[kStream].messageQueue.enqueue(letter(undefined, handle('next')))), 'the next')
  t.strictSame(handled, ['next'])
})

t.test('a process that closes while it asks about a message that another handles refuses it', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two, client } = await farProcess(t, redis)
  const { sessions: three } = await farProcess(t, redis)
  const session = await openSession(one)
  const queue = `{sse}:s:${session.id}:queue`
  const { gate, handle, running } = runOne(session)
  await until(async () => await redis.ask('LLEN', queue) === 1, 'the first to run')
  const [first = ''] = await redis.ask('LRANGE', queue, '0', '0') as string[]
  const [repeat, other] = await (await handleOf(two, session))[kStream].messageQueue.enqueueAll([letter('a', handle('first')), letter('b', handle('b'))])
  const sent = signal()
  let asked = false
  beforeOrders(client, orders => {
    if (!orders.some(({ operation }) => operation === 'begin')) return undefined
    asked = true
    return sent.promise
  })
  await until(() => asked, 'it to ask again')
  await redis.ask('ZREM', '{sse}:nodes', first.slice(0, first.indexOf(' ')))
  const elsewhere = (await handleOf(three, session))[kStream].messageQueue.enqueue(letter('a', async () => {
    await gate.promise
    return accepted('elsewhere')
  }))
  await until(async () => !(await redis.ask('LRANGE', queue, '0', '-1') as string[]).includes(first), 'the first to be found dead')
  const closed = two.close()
  sent.resolve()
  await t.rejects(within(repeat as Promise<unknown>, 'the refusal'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  t.match(await other, { response: { body: 'b' } })
  await closed
  gate.resolve()
  await Promise.all([running, elsewhere])
})

t.test('however many messages wait, a node is asked once whether it lives', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two } = await farProcess(t, redis)
  const session = await openSession(one)
  const afar = await handleOf(two, session)
  const { gate, handle, running } = runOne(session)
  const queue = `{sse}:s:${session.id}:queue`
  const asked = async (): Promise<number> => Number(/calls=(\d+)/.exec((await redis.info('commandstats')).cmdstat_zscore ?? '')?.[1] ?? 0)
  const names = Array.from({ length: 20 }, (_, n) => `key ${n}`)
  const waiting = names.map(name => session[kStream].messageQueue.enqueue(letter(name, handle(name))))
  await until(async () => await redis.ask('LLEN', queue) === 21, 'them to wait')
  const before = await asked()
  const repeats = afar[kStream].messageQueue.enqueueAll([...names.map(name => letter(name, handle('repeat'))), letter(undefined, handle('last'))])
  await until(async () => await redis.ask('LLEN', queue) === 22, 'the batch to wait')
  t.ok(await asked() - before <= 3, 'and again with each tick')
  gate.resolve()
  await Promise.all([running, ...waiting, ...await repeats])
})
