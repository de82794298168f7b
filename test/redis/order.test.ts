import t, { type Test } from 'tap'
import { kStream } from '../../lib/sessions/session.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { beforeOrders } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { farProcess } from '../support/stores.js'
import { until, within } from '../support/wait.js'

// What Redis answers and what it publishes come over two connections, of which one may be late.

/** A member of a channel that has got one message, and another that is published but not heard yet. */
async function withOneUnheard (t: Test) {
  const redis = await startRedis(t)
  const { sessions: one, client, holdPublished, settled } = await farProcess(t, redis)
  const { sessions: two } = await farProcess(t, redis)
  const session = await openSession(one)
  const down = await stream(one, session)
  await session.join('room')
  await two.channel('room').send(1)
  await until(() => down.messages().length === 1, 'the first message')
  holdPublished(true)
  await two.channel('room').send(2)
  return { two, client, session, down, holdPublished, settled }
}

t.test('what came to a channel before it was left comes, though it is heard after', needsRedis, async t => {
  const { session, down, holdPublished } = await withOneUnheard(t)
  await session.leave('room')
  holdPublished(false)
  await until(() => down.read().length === 2, 'the second')
  t.strictSame(down.messages(), [1, 2])
})

t.test('what came to a channel before the end comes, though it is heard after', needsRedis, async t => {
  const { session, down, holdPublished, settled } = await withOneUnheard(t)
  const closed = session.close()
  await until(() => session.closed, 'the end')
  await settled()
  holdPublished(false)
  await closed
  await until(() => down.sink.closed, 'the end of the stream')
  t.strictSame(down.read().map(({ event }) => event), ['message', 'message', 'close'])
})

for (const [what, lost] of [['its record', ['load']], ['what was published', ['read', 'tick']]] as const) {
  t.test(`an end does not wait for ever, and where ${what} cannot be had before it is told the client has to come back`, needsRedis, async t => {
    const { two, client, session, down } = await withOneUnheard(t)
    let isLost = true
    beforeOrders(client, orders => isLost && orders.some(({ operation }) => lost.some(name => name === operation)) ? new Promise(() => {}) : undefined)
    t.teardown(() => { isLost = false })
    await within(session.close('bye'), 'the end', 5000)
    await until(() => down.sink.closed, 'the end of the stream')
    t.strictSame(down.read().map(({ event }) => event), ['message'])
    const back = await stream(two, await handleOf(two, session), down.events.at(-1)?.position ?? 0)
    await until(() => back.sink.closed, 'the end of the other stream')
    t.match(back.read(), [{ event: 'message', data: 2 }, { event: 'close', data: { reason: 'bye' } }])
  })
}

t.test('what is sent while a process that was taken for dead comes back comes, too', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: two } = await farProcess(t, redis, {}, { lease: 500 })
  const { sessions: one, client, proxy, settled } = await farProcess(t, redis, {}, { lease: 500 })
  const session = await openSession(one)
  const down = await stream(one, session)
  const afar = await handleOf(two, session)
  await session.send(1)
  for (const { client } of proxy.connections) client.pause()
  await until(async () => await redis.ask('ZCARD', '{sse}:nodes') === 1, 'it to be taken for dead')
  let sent = false
  beforeOrders(client, async orders => {
    // It says that the session is its own: so many sessions, the id, the epoch.
    if (sent || !orders.some(({ operation, args }) => operation === 'hold' && args.join() === `1,${session.id},1`)) return
    sent = true
    await afar.send(2)
  })
  for (const { client } of proxy.connections) client.resume()
  await until(() => sent, 'it to come back')
  for (let turn = 0; turn < 5; turn++) await settled()
  await two.broadcast('message', 3)
  await until(() => down.messages().includes(3), 'the broadcast')
  t.strictSame(down.messages(), [1, 2, 3])
})

t.test('a channel that another has left is read by those who are about to read it', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: two } = await farProcess(t, redis)
  const { sessions: one, holdPublished } = await farProcess(t, redis, {}, { lease: 1000 })
  const [first, second] = [await openSession(one), await openSession(one)]
  await stream(one, first)
  await first.join('a')
  const afar = await handleOf(two, second)
  await afar.join('a')
  await afar.join('b')
  await first.leave('a')
  const here = await handleOf(one, second)
  // It waits for the other channel, while what nobody reads is let go of.
  holdPublished(true)
  const attached = stream(one, here, here[kStream].cursor)
  for (let number = 2; number < 5; number++) {
    await until(() => one.size === number, 'the next tick')
    await openSession(two)
  }
  holdPublished(false)
  const down = await attached
  await two.channel('a').send(1)
  await until(() => down.messages().length === 1, 'the message')
})

t.test('an answer that is older than what was told since undoes nothing', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one, holdAnswers } = await farProcess(t, redis)
  const { sessions: two } = await farProcess(t, redis)
  const session = await openSession(one)
  const down = await stream(one, session)
  const afar = await handleOf(two, session)
  const node = String(await redis.ask('HGET', `{sse}:s:${session.id}`, 'owner'))
  const done = (): Promise<unknown> => redis.ask('HGET', '{sse}', `ran:${node}`)
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  holdAnswers(true)
  const before = await done()
  const found = one.find(session.id)
  await until(async () => await done() !== before, 'Redis to answer')
  await afar.join('room')
  await until(() => session.channels.length === 1, 'it to be told')
  holdAnswers(false)
  await found
  t.strictSame(session.channels, ['room'])
  await two.channel('room').send(2)
  await until(() => down.messages().length === 2, 'the next')
})

t.test('what is sent while many logs are looked at comes in order', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one, client } = await farProcess(t, redis)
  const { sessions: two } = await farProcess(t, redis)
  const session = await openSession(one)
  const down = await stream(one, session)
  const names = Array.from({ length: 600 }, (_, n) => `room ${n}`)
  for (let n = 0; n < names.length; n += 50) await Promise.all(names.slice(n, n + 50).map(name => session.join(name)))
  await two.channel('room 599').send(1)
  await until(() => down.messages().length === 1, 'the first message')
  let looks = 0
  beforeOrders(client, async orders => {
    // The first of them are looked at by then.
    if (!orders.some(({ operation, args }) => operation === 'read' && args.includes('room 599'))) return
    if (looks++ > 0) return
    await two.channel('room 0').send(2)
    await two.channel('room 599').send(3)
  })
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(() => down.messages().length === 3, 'the others')
  t.strictSame(down.messages(), [1, 2, 3])
})
