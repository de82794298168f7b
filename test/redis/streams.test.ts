import t from 'tap'
import { kInternals } from '../../lib/sessions/session.js'
import { findSession, openSession, attachMemoryStream, createEarlierTime } from '../support/memory-stream.js'
import { openTwoNodes, pauseUntilExpired, watchAcquire } from './support/two-nodes.js'
import { interceptStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis-server.js'
import { openProxiedNode } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

const field = (redis: RedisServer, { id }: { id: string }, name: string): Promise<unknown> => redis.sendCommand('HGET', `{sse}:s:${id}`, name)

t.test('a session expires if its client disconnects while the stream is being acquired', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, pauseReplies } = await openProxiedNode(t, redis, { resumeTimeout: 300 })
  const session = await openSession(sessions)
  const first = await attachMemoryStream(sessions, session)
  first.sink.destroy()
  await waitUntil(() => !session.connected, 'the end of the first stream')
  session[kInternals].retainForResume()
  pauseReplies(true)
  const isAcquired = await watchAcquire(redis, session)
  const acquired = sessions.acquireStream(session, session[kInternals].cursor)
  await waitUntil(isAcquired, 'Redis to execute the command')
  session[kInternals].release()
  pauseReplies(false)
  await acquired
  await waitUntil(async () => await redis.sendCommand('ZCARD', '{sse}:deadlines') === 0, 'the session to expire')
})

t.test('sends no more commands for a session that was discarded while its stream was being acquired', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client, pauseReplies } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, await openSession(sessions))
  pauseReplies(true)
  const isAcquired = await watchAcquire(redis, session)
  const acquired = sessions.acquireStream(session, session[kInternals].cursor)
  await waitUntil(isAcquired, 'Redis to execute the command')
  const discarded = sessions.discard(session, 'aborted')
  pauseReplies(false)
  await acquired
  await discarded
  await sessions.broadcast('message', 1)
  await waitUntil(() => down.messages().length === 1, 'the first broadcast')
  const commandArgs: string[] = []
  interceptStoreCommands(client, storeCommands => { commandArgs.push(...storeCommands.flatMap(({ args }) => args)) })
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await sessions.broadcast('message', 2)
  await waitUntil(() => down.messages().length === 2, 'the second broadcast')
  t.ok(commandArgs.length > 0)
  t.notOk(commandArgs.includes(session.id))
})

t.test('a retried acquire does not take the stream back from another node, which may have released it since', needsRedis, async t => {
  for (const isReleased of [false, true]) {
    const [redis, { sessions: nodeB }, { sessions: nodeA, pauseReplies, proxy }] = await openTwoNodes(t)
    const session = await openSession(nodeB)
    const local = await findSession(nodeA, session)
    pauseReplies(true)
    const isAcquired = await watchAcquire(redis, session)
    const attached = attachMemoryStream(nodeA, local, local[kInternals].cursor, false, createEarlierTime())
    await waitUntil(isAcquired, 'Redis to execute the command')
    const down = await attachMemoryStream(nodeB, session)
    const epoch = await field(redis, session, 'epoch')
    if (isReleased) {
      down.sink.destroy()
      await waitUntil(async () => await field(redis, session, 'owner') === '', 'Redis to release the stream')
    }
    // The reply is lost.
    proxy.connections[0]?.client.resetAndDestroy()
    await t.rejects(attached, { code: 'FST_SSE_STORE_UNAVAILABLE' }, 'the client tries again')
    t.equal(await field(redis, session, 'epoch'), epoch)
    if (isReleased) {
      t.equal(await field(redis, session, 'owner'), '')
      continue
    }
    await session.send(1)
    await waitUntil(() => down.messages().length === 1, 'the message')
    t.notOk(down.sink.closed)
  }
})

t.test('a node that missed the close of a session detects it after reconnecting', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB, proxy }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const { signal } = await findSession(nodeB, session)
  proxy.setDown(true)
  await session.close()
  proxy.setDown(false)
  await waitUntil(() => signal.aborted, 'the signal to abort')
})

t.test('a node that missed that its stream was replaced and its session closed detects both after reconnecting', needsRedis, async t => {
  const [, { sessions: nodeB }, { sessions: nodeA, proxy }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const { signal } = session
  const down = await attachMemoryStream(nodeA, session)
  proxy.setDown(true)
  const remote = await findSession(nodeB, session)
  await attachMemoryStream(nodeB, remote, down.cursor)
  await remote.close('bye')
  proxy.setDown(false)
  await waitUntil(() => signal.aborted, 'the signal to abort')
  await waitUntil(() => down.sink.closed, 'the end of the stream')
  t.equal(session.closed, true)
})

t.test('a node whose stream was replaced while it counted as dead detects the later close of the session', needsRedis, async t => {
  const [redis, { sessions: nodeB }, node] = await openTwoNodes(t, {}, { lease: 1000 })
  const { sessions: nodeA, proxy } = node
  const session = await openSession(nodeA)
  const { signal } = session
  const down = await attachMemoryStream(nodeA, session)
  await pauseUntilExpired(redis, node)
  const remote = await findSession(nodeB, session)
  await attachMemoryStream(nodeB, remote, down.cursor)
  for (const { client } of proxy.connections) client.resume()
  await waitUntil(() => down.sink.closed, 'the end of the stream')
  await remote.close('bye')
  await waitUntil(() => signal.aborted, 'the signal to abort')
})

t.test('a session with a stream can join 4,000 channels, more than one command reads', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis, { maxChannelsPerSession: 4000 })
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  const names = Array.from({ length: 4000 }, (_, n) => `room ${n}`)
  for (let n = 0; n < names.length; n += 50) await Promise.all(names.slice(n, n + 50).map(name => session.join(name)))
  await waitUntil(() => sessions.stats().channels === names.length, 'the channels')
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  for (const [n, name] of names.entries()) if (n % 1999 === 0) await sessions.channel(name).send(n)
  await waitUntil(() => down.messages().length === 3, 'the messages')
  t.strictSame(down.messages(), [0, 1999, 3998])
})

t.test('a node whose lease may have expired writes nothing to its streams', needsRedis, async t => {
  const lease = 300
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis, {}, { lease })
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session, undefined, true)
  for (const n of [1, 2, 3]) await session.send(n)
  redis.pause()
  const since = performance.now()
  await waitUntil(() => performance.now() - since > 2 * lease, 'the lease to expire')
  down.sink.drain(false)
  t.strictSame(down.messages(), [])
  redis.resume()
  await waitUntil(() => down.messages().length === 3, 'the messages')
  t.strictSame(down.messages(), [1, 2, 3])
})

t.test('releases the channels of a stream that ends while its session is being loaded', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeB } = await openProxiedNode(t, redis)
  const { sessions: nodeA, client, pauseReplies } = await openProxiedNode(t, redis, {}, { lease: 1000 })
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  await session.join('room')
  await nodeB.channel('room').send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  t.equal(nodeA.stats().channels, 1)
  let isLoading = false
  interceptStoreCommands(client, storeCommands => { isLoading ||= storeCommands.some(({ operation, args }) => operation === 'get' && args[0] === session.id) })
  pauseReplies(true)
  await (await findSession(nodeB, session)).update({ nick: 'ann' })
  await waitUntil(() => isLoading, 'the load')
  down.sink.destroy()
  await waitUntil(() => !session.connected, 'the end of the stream')
  pauseReplies(false)
  await waitUntil(() => session.data.nick === 'ann', 'the reply')
  await waitUntil(() => nodeA.stats().channels === 0, 'the channel to be released')
})

t.test('a stream of a closed session ends only after all events are written, even if its lease expired', needsRedis, async t => {
  const lease = 300
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis, {}, { lease })
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session, undefined, true)
  for (const n of [1, 2, 3]) await session.send(n)
  await session.close('enough')
  redis.pause()
  const since = performance.now()
  await waitUntil(() => performance.now() - since > 2 * lease, 'the lease to expire')
  down.sink.drain(false)
  redis.resume()
  await waitUntil(() => down.sink.closed, 'the end of the stream')
  t.strictSame(down.read().map(({ event }) => event), ['message', 'message', 'message', 'close'])
})

t.test('a closing node sends the retry field even if its lease has expired', needsRedis, async t => {
  const lease = 300
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis, {}, { lease })
  const down = await attachMemoryStream(sessions, await openSession(sessions))
  t.strictSame(down.messages(), [])
  redis.pause()
  const since = performance.now()
  await waitUntil(() => performance.now() - since > 2 * lease, 'the lease to expire')
  await sessions.close()
  t.match(down.sink.text, /^retry: \d+\n\n$/)
  redis.resume()
})

t.test('compares all logs with Redis once, even if that takes longer than a heartbeat interval', needsRedis, async t => {
  const redis = await startRedis(t)
  // The heartbeat interval is 100 ms.
  const { sessions, client } = await openProxiedNode(t, redis, { maxChannelsPerSession: 3000 }, { lease: 500 })
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  const names = Array.from({ length: 3000 }, (_, n) => `room ${n}`)
  for (let n = 0; n < names.length; n += 50) await Promise.all(names.slice(n, n + 50).map(name => session.join(name)))
  await waitUntil(() => sessions.stats().channels === names.length, 'the channels')
  let heartbeats = 0
  interceptStoreCommands(client, async storeCommands => {
    if (storeCommands.some(({ operation }) => operation === 'heartbeat')) heartbeats++
    if (!storeCommands.some(({ operation }) => operation === 'read')) return
    heartbeats = 0
    await new Promise(resolve => { setTimeout(resolve, 50) })
  })
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await sessions.channel('room 1').send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  await waitUntil(() => heartbeats === 10, 'ten heartbeats without a comparison')
})

t.test('a stream begins when all logs were read, however long that takes', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB, client }] = await openTwoNodes(t, { maxChannelsPerSession: 1000 })
  const session = await openSession(nodeA)
  const { cursor } = session[kInternals]
  await Promise.all(Array.from({ length: 700 }, (_, n) => session.join(`channel ${n}`)))
  // One command reads 200 logs. The delay is that of a slow network.
  interceptStoreCommands(client, async commands => { if (commands.some(({ operation }) => operation === 'read')) await new Promise(resolve => { setTimeout(resolve, 800) }) })
  const stream = await attachMemoryStream(nodeB, await findSession(nodeB, session), cursor)
  await nodeA.channel('channel 699').send('last')
  await waitUntil(() => stream.messages().includes('last'), 'the event')
})

t.test('a stream begins although the mark of the reply was lost with the subscription', needsRedis, async t => {
  const [redis, { sessions: nodeB }, { sessions: nodeA, proxy, pausePublications, waitForReplies }] = await openTwoNodes(t)
  const session = await openSession(nodeB)
  const local = await findSession(nodeA, session)
  pausePublications(true)
  const isAcquired = await watchAcquire(redis, session)
  const attached = attachMemoryStream(nodeA, local)
  await waitUntil(isAcquired, 'Redis to execute the command')
  await waitForReplies()
  proxy.connections[1]?.client.resetAndDestroy()
  const stream = await attached
  await session.send(1)
  await waitUntil(() => stream.messages().length === 1, 'the message')
})

t.test('the request for a stream is refused if the mark of the reply does not arrive, or a log cannot be read', needsRedis, async t => {
  const [, { sessions: nodeB }, { sessions: nodeA, client, pausePublications }] = await openTwoNodes(t)
  const [session, member] = [await openSession(nodeB), await openSession(nodeB)]
  const unavailable = { code: 'FST_SSE_STORE_UNAVAILABLE' }
  await member.join('room')
  // Read before the interception, because a command in the same batch as an intercepted one gets no reply.
  const [sessionOnA, memberOnA] = [await findSession(nodeA, session), await findSession(nodeA, member)]
  interceptStoreCommands(client, commands => commands.some(({ operation, args }) => operation === 'read' && args.includes('channel')) ? new Promise(() => {}) : undefined)
  await t.rejects(attachMemoryStream(nodeA, memberOnA), unavailable)
  pausePublications(true)
  await t.rejects(attachMemoryStream(nodeA, sessionOnA), unavailable)
  pausePublications(false)
})

t.test('the earlier stream of a session ends if the reply to the request for the next one is lost, and its client can resume', needsRedis, async t => {
  const [redis, { sessions: nodeA, pausePublications }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  const isAcquired = await watchAcquire(redis, session)
  pausePublications(true)
  await t.rejects(attachMemoryStream(nodeA, session, down.cursor), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  t.equal(await isAcquired(), true)
  session[kInternals].release()
  pausePublications(false)
  await waitUntil(() => down.sink.closed, 'the end of the earlier stream')
  const resumed = await attachMemoryStream(nodeA, session, down.cursor)
  await session.send(1)
  await waitUntil(() => resumed.messages().length === 1, 'the message')
})
