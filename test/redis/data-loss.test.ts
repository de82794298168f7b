import t from 'tap'
import type { Session } from '../../lib/index.js'
import { kStream } from '../../lib/sessions/session.js'
import { openSession, stream } from '../support/memory-client.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { eachLibrary, farProcess } from '../support/stores.js'
import { until } from '../support/wait.js'

const handle = () => ({ status: 200, headers: {}, body: 'done', error: undefined })

eachLibrary(t, 'a node whose registration was lost registers again and reports gaps', async (t, fleet, redis) => {
  const nodeA = await fleet.process()
  const [session, left] = [await openSession(nodeA), await openSession(nodeA)]
  const [down, leftDown] = [await stream(nodeA, session), await stream(nodeA, left)]
  const fields = await redis.ask('HKEYS', '{sse}') as string[]
  await redis.ask('HDEL', '{sse}', ...fields.filter(name => name.startsWith('ran:') || name.startsWith('told:')))
  await redis.ask('DEL', '{sse}:nodes')
  leftDown.sink.destroy()
  await t.rejects(session.send(1), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await until(async () => await session.send(2).then(() => true, () => false), 'the new registration')
  await until(() => down.messages().includes(2), 'the message')
  t.match(down.read().filter(({ event }) => event === 'gap'), [{ data: { reason: 'store' } }])
  await until(async () => await redis.ask('HGET', `{sse}:s:${left.id}`, 'owner') === '', 'the owner of the other session to be released')
})

eachLibrary(t, 'sessions that were lost with the data of Redis are closed, and their streams end', async (t, fleet, redis) => {
  const nodeA = await fleet.process()
  const closeReasons: string[] = []
  nodeA.addHook('onClose', (_session, reason) => { closeReasons.push(reason) })
  const [session, other] = [await openSession(nodeA), await openSession(nodeA)]
  const down = await stream(nodeA, session)
  await redis.ask('FLUSHALL')
  await until(() => down.sink.closed, 'the end of the stream')
  t.strictSame(down.read().map(({ event }) => event).filter(event => event !== 'gap'), [])
  t.strictSame(closeReasons, ['lost'])
  t.equal(await nodeA.acquireStream(other, other[kStream].cursor), undefined)
  await t.rejects(Promise.resolve(other[kStream].messageQueue.enqueue({ key: undefined, fingerprint: () => '', handle })), { code: 'FST_SSE_SESSION_UNKNOWN' })
})

t.test('a session opened after a data loss gets no gap when another node detects the loss later', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeA } = await farProcess(t, redis)
  const { sessions: nodeB, proxy } = await farProcess(t, redis)
  for (const { client } of proxy.connections) client.pause()
  await redis.ask('FLUSHALL')
  let session = await nodeA.open(undefined).catch(() => undefined)
  await until(async () => (session ??= await nodeA.open(undefined).catch(() => undefined)) !== undefined, 'node A to register again')
  const down = await stream(nodeA, session as Session)
  for (const { client } of proxy.connections) client.resume()
  await until(async () => await nodeB.broadcast('message', 1).then(() => true, () => false), 'node B to register again')
  await until(() => down.messages().length > 0, 'the message')
  t.strictSame(down.read().map(({ event }) => event), ['message'])
})
