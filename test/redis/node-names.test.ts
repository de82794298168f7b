import t, { type Test } from 'tap'
import { kStream } from '../../lib/sessions/session.js'
import { openSession, stream } from '../support/memory-client.js'
import { accepted, letter } from './support/messages.js'
import { beforeOrders } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { farProcess } from '../support/stores.js'
import { signal, until, within } from '../support/wait.js'

/** A process with a stream, whose name Redis can be made to forget. */
async function withName (t: Test) {
  const redis = await startRedis(t)
  const { sessions, client } = await farProcess(t, redis)
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  const node = String(await redis.ask('HGET', `{sse}:s:${session.id}`, 'owner'))
  return { client, session, down, forget: () => redis.ask('HDEL', '{sse}', `ran:${node}`) }
}

t.test('a process has one name when it has begun', needsRedis, async t => {
  const redis = await startRedis(t)
  await farProcess(t, redis)
  t.equal(await redis.ask('ZCARD', '{sse}:nodes'), 1)
})

t.test('a message that comes while a process takes another name is handled, and holds up nobody', needsRedis, async t => {
  const { client, session, forget } = await withName(t)
  const deliver = async (body: string): Promise<unknown> => {
    const { response: outcome } = await session[kStream].messageQueue.enqueue({ key: undefined, fingerprint: () => '', handle: () => ({ status: 200, headers: {}, body, error: undefined }) })
    return outcome.body
  }
  let first: Promise<unknown> | undefined
  beforeOrders(client, orders => {
    if (orders.some(({ operation, args }) => operation === 'tick' && args[0] === '1')) first ??= deliver('first')
  })
  await forget()
  await until(() => first !== undefined, 'it to come back')
  t.equal(await within(first ?? Promise.resolve(), 'the first'), 'first')
  t.equal(await within(deliver('second'), 'the second'), 'second')
})

t.test('that Redis has lost something is told, though a process has to ask for another name twice', needsRedis, async t => {
  const { client, session, down, forget } = await withName(t)
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  let asked = 0
  beforeOrders(client, orders => {
    if (orders.some(({ operation, args }) => operation === 'tick' && args[0] === '1') && asked++ === 0) throw new Error('Command timed out')
  })
  await forget()
  await until(() => asked === 2, 'it to ask again')
  await session.send(2)
  await until(() => down.messages().length === 2, 'the next')
  t.match(down.read(), [{ event: 'message' }, { event: 'gap', data: { reason: 'store' } }, { event: 'message' }])
})

t.test('while a message is handled that was begun under another name, nothing is sent to its session from here', needsRedis, async t => {
  const { session, down, forget } = await withName(t)
  const [begun, gate] = [signal(), signal()]
  const running = session[kStream].messageQueue.enqueue(letter(undefined, async () => {
    begun.resolve()
    await gate.promise
    return accepted('done')
  }))
  await within(begun.promise, 'the handler')
  await forget()
  await until(async () => await session.join('room').then(() => true, () => false), 'it to be back')
  await t.rejects(session.send(1), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  gate.resolve()
  await running
  await until(async () => await session.send(2).then(() => true, () => false), 'it to be possible again')
  await until(() => down.messages().length > 0, 'the message')
  t.strictSame(down.messages(), [2])
})
