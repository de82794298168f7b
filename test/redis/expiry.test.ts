import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { Session, Sessions } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { attachMemoryStream, findSession, openSession } from '../support/memory-stream.js'
import { interceptStoreCommands, parseStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis-server.js'
import { openProxiedNode, type ProxiedNode } from '../support/stores.js'
import { deferred, waitUntil } from '../support/wait.js'
import { readQueue } from './support/messages.js'

const open = (t: Test, redis: RedisServer, lease = 500): Promise<ProxiedNode> => openProxiedNode(t, redis, { resumeTimeout: 300, closeTimeout: 5000 }, { lease })

/** Records the calls of the onClose hook of a node. */
function recordCloses (sessions: Sessions): string[] {
  const closes: string[] = []
  sessions.addHook('onClose', ({ id }, reason) => { closes.push(`${id} ${reason}`) })
  return closes
}

/** Opens a session whose client disconnects before its stream starts, so that it expires. */
async function openExpiring (sessions: Sessions): Promise<Session> {
  const session = await openSession(sessions)
  session[kInternals].release()
  return session
}

/** Loses the reply to the first `end` operation, which Redis executes. */
function loseEndReply (client: Redis, onLost: () => void = () => {}): void {
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  let isLost = false
  const callAndLoseReply = async (...args: string[]): Promise<unknown> => {
    const reply = await call(...args)
    if (isLost || !parseStoreCommands(args).some(({ operation }) => operation === 'end')) return reply
    isLost = true
    onLost()
    return await new Promise(() => {})
  }
  Object.assign(client, { call: callAndLoseReply })
}

const countUnacked = async (redis: RedisServer): Promise<unknown> => await redis.sendCommand('ZCARD', '{sse}:unacked_expiries')

t.test('runs the onClose hook once if the reply to the end of an expired session never arrives', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await open(t, redis)
  const closes = recordCloses(sessions)
  loseEndReply(client)
  const { id } = await openExpiring(sessions)
  await waitUntil(() => closes.length > 0, 'the hook')
  await waitUntil(async () => await countUnacked(redis) === 0, 'the expiry to be acknowledged')
  t.strictSame(closes, [`${id} expired`])
  t.strictSame(await redis.sendCommand('KEYS', `*${id}*`), [])
})

t.test('runs the onClose hook once if the connection closes before the reply arrives', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client, proxy } = await open(t, redis, 100_000)
  const closes = recordCloses(sessions)
  loseEndReply(client, () => { proxy.connections[0]?.client.resetAndDestroy() })
  const { id } = await openExpiring(sessions)
  await waitUntil(() => closes.length > 0, 'the hook')
  await waitUntil(async () => await countUnacked(redis) === 0, 'the expiry to be acknowledged')
  t.strictSame(closes, [`${id} expired`])
})

t.test('another node runs the onLeave and onClose hooks if the node that closed an expired session dies first', needsRedis, async t => {
  const redis = await startRedis(t)
  const nodeA = await open(t, redis)
  const closes = recordCloses(nodeA.sessions)
  loseEndReply(nodeA.client, () => { nodeA.proxy.setDown(true) })
  const session = await openSession(nodeA.sessions)
  const { id } = session
  await session.join('room')
  session[kInternals].release()
  await waitUntil(async () => await countUnacked(redis) === 1, 'the session to expire')
  for (const key of ['{sse}:unacked_expiries', `{sse}:e:${id}`]) t.ok(Number(await redis.sendCommand('PTTL', key)) > 0, `${key} has a TTL`)
  const nodeB = await open(t, redis)
  const closesOnNodeB = recordCloses(nodeB.sessions)
  nodeB.sessions.addHook('onLeave', (left, { name }) => { closesOnNodeB.push(`${left.id} leaves ${name}`) })
  t.equal(await nodeB.sessions.findForResume(id, undefined), undefined, 'the session cannot be resumed')
  await waitUntil(() => closesOnNodeB.length > 1, 'the hooks')
  await waitUntil(async () => await countUnacked(redis) === 0, 'the expiry to be acknowledged')
  t.strictSame([closes, closesOnNodeB], [[], [`${id} leaves room`, `${id} expired`]])
})

t.test('onLeave runs for the channels that an expired session has joined in another process', needsRedis, async t => {
  const redis = await startRedis(t)
  const [nodeA, nodeB] = [await open(t, redis), await open(t, redis)]
  const session = await openSession(nodeA.sessions)
  await session.join('room')
  // The first node is not notified of this, because it has no stream of the session.
  await (await findSession(nodeB.sessions, session)).join('hall')
  await nodeB.sessions.close()
  // The notification of the close arrives before the reply.
  const call = nodeA.client.call.bind(nodeA.client) as (...args: string[]) => Promise<unknown>
  const callAndDelayReply = async (...args: string[]): Promise<unknown> => {
    const reply = await call(...args)
    if (parseStoreCommands(args).some(({ operation }) => operation === 'end')) await waitUntil(() => session.closed, 'the notification')
    return reply
  }
  Object.assign(nodeA.client, { call: callAndDelayReply })
  const left: string[] = []
  nodeA.sessions.addHook('onLeave', (_session, { name }) => { left.push(name) })
  const closes = recordCloses(nodeA.sessions)
  session[kInternals].release()
  await waitUntil(() => closes.length > 0, 'the hooks')
  t.strictSame(left.toSorted(), ['hall', 'room'])
})

t.test('a session stays open if its client reconnects while the expiry is being executed', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await open(t, redis)
  const closes = recordCloses(sessions)
  const { id } = await openExpiring(sessions)
  let isReconnected = false
  interceptStoreCommands(client, async storeCommands => {
    if (isReconnected || !storeCommands.some(({ operation }) => operation === 'end')) return
    // The same effect as when another node attaches a stream within the same clock tick.
    const clock = Number(await redis.sendCommand('HGET', '{sse}', 'leaseClock'))
    await redis.sendCommand('ZADD', '{sse}:deadlines', String(clock + 300), id)
    isReconnected = true
  })
  await waitUntil(() => isReconnected, 'the deadline')
  t.ok(await sessions.find(id))
  t.strictSame(closes, [])
  await waitUntil(() => closes.length > 0, 'the later expiry')
})

/** Opens a node whose onClose hook waits for a gate. */
async function openWithSlowHook (t: Test) {
  const redis = await startRedis(t)
  const nodeA = await open(t, redis)
  const closes = recordCloses(nodeA.sessions)
  const gate = deferred()
  nodeA.sessions.addHook('onClose', () => gate.promise)
  t.teardown(gate.resolve)
  return { redis, nodeA, closes, gate }
}

/** Waits until the slow hook runs, then opens another node. */
async function openWhileHookRuns (t: Test) {
  const { redis, nodeA, closes, gate } = await openWithSlowHook(t)
  const { id } = await openExpiring(nodeA.sessions)
  await waitUntil(() => closes.length > 0, 'the hook')
  // Another lease, so that the heartbeats of the two nodes are not in step and both nodes check for expired sessions.
  const nodeB = await open(t, redis, 300)
  return { redis, nodeA, nodeB, closes: [closes, recordCloses(nodeB.sessions)], gate, id }
}

t.test('a slow onClose hook runs once, and not on another node', needsRedis, async t => {
  const { redis, closes, gate, id } = await openWhileHookRuns(t)
  const scores = new Set<unknown>()
  await waitUntil(async () => scores.add(await redis.sendCommand('ZSCORE', '{sse}:unacked_expiries', id)).size === 8, 'eight checks of the expired session')
  gate.resolve()
  await waitUntil(async () => await countUnacked(redis) === 0, 'the expiry to be acknowledged')
  t.strictSame(closes, [[`${id} expired`], []])
})

t.test('if a node dies while its onClose hook runs, the hook runs on another node', needsRedis, async t => {
  const { redis, nodeA, closes, id } = await openWhileHookRuns(t)
  nodeA.proxy.setDown(true)
  await waitUntil(async () => await countUnacked(redis) === 0, 'the expiry to be acknowledged')
  t.strictSame(closes, [[`${id} expired`], [`${id} expired`]])
})

t.test('releases 1,000 sessions of a dead node within four heartbeats', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await openProxiedNode(t, redis)
  const opened = await Promise.all(Array.from({ length: 1000 }, () => openSession(sessions)))
  await redis.sendCommand('EVAL', "for _, id in ipairs(ARGV) do redis.call('HSET', '{sse}:s:' .. id, 'owner', 'dead') redis.call('ZADD', '{sse}:deadlines', 1, id) end", '0', ...opened.map(({ id }) => id))
  let heartbeats = 0
  interceptStoreCommands(client, storeCommands => { if (storeCommands.some(({ operation }) => operation === 'heartbeat')) heartbeats++ })
  await waitUntil(async () => await redis.sendCommand('ZCOUNT', '{sse}:deadlines', '-inf', '1') === 0, 'all sessions to be released', 30_000)
  t.ok(heartbeats <= 4, `${heartbeats} heartbeats`)
  t.equal(await redis.sendCommand('HGET', `{sse}:s:${opened[500]?.id}`, 'owner'), '')
})

t.test('a session whose client is opening or resuming it expires if its node dies', needsRedis, async t => {
  const redis = await startRedis(t)
  const nodeA = await open(t, redis)
  const opening = await openSession(nodeA.sessions)
  const resuming = await openExpiring(nodeA.sessions)
  resuming[kInternals].retainForResume()
  nodeA.proxy.setDown(true)
  const nodeB = await open(t, redis)
  const closes = recordCloses(nodeB.sessions)
  await waitUntil(() => closes.length === 2, 'both hooks')
  t.strictSame(closes.toSorted(), [`${opening.id} expired`, `${resuming.id} expired`].toSorted())
})

t.test('a session is kept for resumeTimeout, however long ago the last heartbeat was', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis, { resumeTimeout: 4000 }, { lease: 10_000 })
  const session = await openSession(sessions)
  const stream = await attachMemoryStream(sessions, session)
  let earliest = 0
  await waitUntil(async () => {
    const [clock, heartbeatAt] = await redis.sendCommand('HMGET', '{sse}', 'leaseClock', 'clockAt') as [string, string]
    const [seconds, microseconds] = await redis.sendCommand('TIME') as [string, string]
    const elapsed = (Number(seconds) * 1e6 + Number(microseconds) - Number(heartbeatAt)) / 1000
    earliest = Number(clock) + elapsed + 4000
    return elapsed > 500
  }, 'half of the time between two heartbeats')
  stream.sink.destroy()
  await waitUntil(async () => await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner') === '', 'the end of the stream')
  const deadline = Number(await redis.sendCommand('ZSCORE', '{sse}:deadlines', session.id))
  t.ok(deadline >= earliest, `${deadline} >= ${earliest}`)
})

t.test('a closing node does not run the onClose hook for expired sessions; another node does', needsRedis, async t => {
  const redis = await startRedis(t)
  const nodeA = await open(t, redis)
  const closes = recordCloses(nodeA.sessions)
  const busySession = await openSession(nodeA.sessions)
  await attachMemoryStream(nodeA.sessions, busySession)
  const gate = deferred()
  const running = busySession[kInternals].messageQueue.enqueue({
    key: undefined,
    fingerprint: () => '',
    handle: async () => {
      await gate.promise
      return { status: 200, headers: {}, body: '' }
    }
  })
  await waitUntil(async () => (await readQueue(redis, busySession.id)).length === 1, 'the message to run')
  const { id } = await openExpiring(nodeA.sessions)
  const deadline = await redis.sendCommand('ZSCORE', '{sse}:deadlines', id)
  const closed = nodeA.sessions.close()
  await waitUntil(async () => await redis.sendCommand('ZSCORE', '{sse}:deadlines', id) !== deadline, 'the expired session to be found')
  gate.resolve()
  await running
  await closed
  const nodeB = await open(t, redis)
  const closesOnNodeB = recordCloses(nodeB.sessions)
  await waitUntil(() => closesOnNodeB.some(text => text.startsWith(id)), 'the hook')
  t.strictSame(closes, [])
})

t.test('a node that closes during an expiry waits for its onClose hook', needsRedis, async t => {
  const { redis, nodeA, closes, gate } = await openWithSlowHook(t)
  let closed: Promise<void> | undefined
  interceptStoreCommands(nodeA.client, storeCommands => {
    if (storeCommands.some(({ operation }) => operation === 'end')) closed ??= nodeA.sessions.close()
  })
  const { id } = await openExpiring(nodeA.sessions)
  await waitUntil(() => closes.length > 0, 'the hook')
  const nodeB = await open(t, redis)
  const closesOnNodeB = recordCloses(nodeB.sessions)
  gate.resolve()
  await closed
  await waitUntil(async () => await countUnacked(redis) === 0, 'the expiry to be acknowledged')
  t.strictSame([closes, closesOnNodeB], [[`${id} expired`], []])
})

t.test('a node that closes waits for an onClose hook as long as closeTimeout allows', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await openProxiedNode(t, redis, { resumeTimeout: 200, closeTimeout: 600_000 })
  const closes = recordCloses(sessions)
  const gate = deferred()
  t.teardown(gate.resolve)
  sessions.addHook('onClose', () => gate.promise)
  await openExpiring(sessions)
  await waitUntil(() => closes.length > 0, 'the hook')
  let isClosed = false
  const closed = sessions.close().then(() => { isClosed = true })
  // One every 50 ms at most, so longer than the store waits for Redis.
  let heartbeats = 0
  interceptStoreCommands(client, commands => { heartbeats += commands.filter(({ operation }) => operation === 'heartbeat').length })
  await waitUntil(() => isClosed || heartbeats > 50, 'the heartbeats', 120_000)
  t.equal(isClosed, false)
  gate.resolve()
  await closed
  t.equal(await countUnacked(redis), 0)
})
