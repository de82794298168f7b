import t, { type Test } from 'tap'
import { kStream } from '../../lib/sessions/session.js'
import { openSession, stream } from '../support/memory-client.js'
import { createMessage, createResponse } from './support/messages.js'
import { beforeOrders } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { farProcess } from '../support/stores.js'
import { signal, until, within } from '../support/wait.js'

/** Opens a node with a stream. `unregister` deletes the registration of its node id in Redis. */
async function openRegistered (t: Test) {
  const redis = await startRedis(t)
  const { sessions, client } = await farProcess(t, redis)
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  const node = String(await redis.ask('HGET', `{sse}:s:${session.id}`, 'owner'))
  return { client, session, down, unregister: () => redis.ask('HDEL', '{sse}', `ran:${node}`) }
}

t.test('a node registers one node id at start', needsRedis, async t => {
  const redis = await startRedis(t)
  await farProcess(t, redis)
  t.equal(await redis.ask('ZCARD', '{sse}:nodes'), 1)
})

t.test('handles a message that arrives while a node registers a new node id, and later messages', needsRedis, async t => {
  const { client, session, unregister } = await openRegistered(t)
  const deliver = async (body: string): Promise<unknown> => {
    const { response } = await session[kStream].messageQueue.enqueue({ key: undefined, fingerprint: () => '', handle: () => ({ status: 200, headers: {}, body, error: undefined }) })
    return response.body
  }
  let first: Promise<unknown> | undefined
  beforeOrders(client, orders => {
    if (orders.some(({ operation, args }) => operation === 'tick' && args[0] === '1')) first ??= deliver('first')
  })
  await unregister()
  await until(() => first !== undefined, 'the new registration')
  t.equal(await within(first ?? Promise.resolve(), 'the first response'), 'first')
  t.equal(await within(deliver('second'), 'the second response'), 'second')
})

t.test('reports a gap even if the first attempt to register a new node id fails', needsRedis, async t => {
  const { client, session, down, unregister } = await openRegistered(t)
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  let attempts = 0
  beforeOrders(client, orders => {
    if (orders.some(({ operation, args }) => operation === 'tick' && args[0] === '1') && attempts++ === 0) throw new Error('Command timed out')
  })
  await unregister()
  await until(() => attempts === 2, 'the second attempt')
  await session.send(2)
  await until(() => down.messages().length === 2, 'the second message')
  t.match(down.read(), [{ event: 'message' }, { event: 'gap', data: { reason: 'store' } }, { event: 'message' }])
})

t.test('rejects sends to a session while a handler runs that started under a previous node id', needsRedis, async t => {
  const { session, down, unregister } = await openRegistered(t)
  const [started, gate] = [signal(), signal()]
  const running = session[kStream].messageQueue.enqueue(createMessage(undefined, async () => {
    started.resolve()
    await gate.promise
    return createResponse('done')
  }))
  await within(started.promise, 'the handler')
  await unregister()
  await until(async () => await session.join('room').then(() => true, () => false), 'the new registration')
  await t.rejects(session.send(1), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  gate.resolve()
  await running
  await until(async () => await session.send(2).then(() => true, () => false), 'sends to be accepted again')
  await until(() => down.messages().length > 0, 'the message')
  t.strictSame(down.messages(), [2])
})
