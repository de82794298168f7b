import t, { type Test } from 'tap'
import { kStream } from '../../lib/sessions/session.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { ordersOf } from '../support/redis-commands.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis.js'
import { eachLibrary, farProcess, type FarProcess } from '../support/stores.js'
import { signal, until, within } from '../support/wait.js'

const UNAVAILABLE = { code: 'FST_SSE_STORE_UNAVAILABLE' }

/** A process, and what it asks Redis from now on, by command, but for signs of life. */
async function listen (t: Test, redis: RedisServer): Promise<FarProcess & { readonly asked: string[][] }> {
  const process = await farProcess(t, redis)
  const { client } = process
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  const asked: string[][] = []
  const watch = async (...command: string[]): Promise<unknown> => {
    const orders = ordersOf(command).filter(({ number }) => number > 0)
    if (orders.length > 0) asked.push(orders.map(({ operation }) => operation))
    return await call(...command)
  }
  Object.assign(client, { call: watch })
  return { ...process, asked }
}

t.test('what is asked in one turn of the event loop goes in few commands, in its order', needsRedis, async t => {
  const { sessions, asked } = await listen(t, await startRedis(t))
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  asked.length = 0
  const numbers = Array.from({ length: 100 }, (_, n) => n)
  await Promise.all(numbers.map(async n => { await (n % 2 === 0 ? session.send(n) : sessions.broadcast('message', n)) }))
  const commands = asked.map(operations => operations.filter(operation => operation === 'append').length).filter(appends => appends > 0)
  t.equal(commands.length, 2)
  t.equal(commands.reduce((sum, appends) => sum + appends), 100)
  await until(() => down.messages().length === 100, 'all')
  t.strictSame(down.messages(), numbers)
})

t.test('what Redis refuses takes nothing with it that was asked for at once', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, asked } = await listen(t, redis)
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  await redis.ask('SET', '{sse}:c:bad:', 'not a channel')
  asked.length = 0
  const sent = [sessions.broadcast('message', 1), sessions.channel('bad').send(2), sessions.broadcast('message', 3)]
  await t.rejects(Promise.resolve(sent[1]), UNAVAILABLE)
  await Promise.all([sent[0], sent[2]])
  await until(() => down.messages().length === 2, 'the others')
  t.strictSame(down.messages(), [1, 3])
  t.strictSame(asked, [['append', 'append', 'append'], ['append']])
})

t.test('what has to be done waits until Redis has memory for it; what can be refused is', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await farProcess(t, redis)
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  await redis.ask('CONFIG', 'SET', 'maxmemory', '1')
  await t.rejects(Promise.resolve(session.send(1)), UNAVAILABLE)
  down.sink.destroy()
  await t.rejects(Promise.resolve(session.send(2)), UNAVAILABLE)
  t.equal(await redis.ask('HGET', `{sse}:s:${session.id}`, 'owner') === '', false)
  await redis.ask('CONFIG', 'SET', 'maxmemory', '0')
  await until(async () => await redis.ask('HGET', `{sse}:s:${session.id}`, 'owner') === '', 'the end of the stream to be known')
})

t.test('what was given up while Redis was silent is not done later, and what stood around it is', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await farProcess(t, redis)
  const { sessions: other } = await farProcess(t, redis)
  const [session, left] = [await openSession(sessions), await openSession(sessions)]
  const gone = await stream(sessions, left)
  const { cursor } = session[kStream]
  redis.pause()
  const since = performance.now()
  gone.sink.destroy()
  await Promise.resolve()
  await t.rejects(Promise.resolve(session.send(1)), UNAVAILABLE)
  const second = session.send(2)
  // By Redis's clock, too, which is known to a millisecond or so.
  await until(() => performance.now() - since > 2100, 'the time to have passed')
  redis.resume()
  await second
  const down = await stream(other, await handleOf(other, session), cursor)
  await until(() => down.messages().length > 0, 'what was sent')
  t.strictSame(down.messages(), [2])
  await until(async () => await redis.ask('HGET', `{sse}:s:${left.id}`, 'owner') === '', 'the end of the stream to be known')
})

t.test('what was done, but whose answer the client has lost, is not done again', needsRedis, async t => {
  const { sessions, client } = await farProcess(t, await startRedis(t))
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  const [second, resent] = [signal(), signal()]
  let appends = 0
  const lose = async (...command: string[]): Promise<unknown> => {
    const number = ordersOf(command).some(({ operation }) => operation === 'append') ? ++appends : 0
    const answer = await call(...command)
    if (number === 1) {
      // As by a timeout of its own, when there is an answer to what came behind it.
      await second.promise
      throw new Error('Command timed out')
    }
    if (number === 3) resent.resolve()
    return answer
  }
  Object.assign(client, { call: lose })
  const first = session.send(1)
  await until(() => appends === 1, 'it to be sent')
  await session.send(2)
  second.resolve()
  await first
  await within(resent.promise, 'it to be sent again')
  await until(() => down.messages().length === 2, 'both')
  t.strictSame(down.messages(), [1, 2])
  t.equal(appends, 3)
})

eachLibrary(t, 'what is asked at once may be more than one call can take', async (t, fleet) => {
  const session = await openSession(await fleet.process())
  const change = Object.fromEntries(Array.from({ length: 2000 }, (_, n) => [`property ${n}`, undefined]))
  await Promise.all(Array.from({ length: 64 }, () => session.update(change)))
  await session.update({ last: 1 })
  t.strictSame(session.data, { last: 1 })
})
