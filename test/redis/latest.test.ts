import t from 'tap'
import { kInternals } from '../../lib/sessions/session.js'
import { matchList } from '../support/match-list.js'
import { attachMemoryStream, openSession } from '../support/memory-stream.js'
import { loseFirstReply } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openProxiedNode, testEachRedisClient } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'
import { openTwoNodes } from './support/two-nodes.js'

testEachRedisClient(t, 'Redis keeps only the latest entry of each key, and only the keys of its entries', async (t, store, redis) => {
  const options = { log: { entries: 10 }, channelLog: { entries: 10 } }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const session = await openSession(nodeA)
  await session.join('room')
  const channel = nodeB.channel('room')
  for (let n = 1; n <= 50; n++) {
    await Promise.all([session.emit('own', n, { latest: true }), channel.emit('state', n, { latest: 'a key/é\n' }), nodeB.broadcast('all', n, { latest: true })])
  }
  const logs = [`{sse}:s:${session.id}`, '{sse}:c:room:', '{sse}:b']
  for (const key of logs) {
    t.equal(await redis.sendCommand('XLEN', `${key}:log`), 1, key)
    t.equal(await redis.sendCommand('HGET', key, 'count'), '1')
    t.equal(Number(await redis.sendCommand('HGET', key, 'trimmed')), 0)
    t.equal(await redis.sendCommand('HLEN', `${key}:latest`), 1)
    t.ok(Number(await redis.sendCommand('PTTL', `${key}:latest`)) > 300_000)
  }
  t.equal(await redis.sendCommand('HGET', logs[0] ?? '', 'bytes'), String('event: own\ndata: 50\n\n'.length))
  for (let n = 1; n <= 50; n++) await session.emit('many', n, { latest: `key ${n}` })
  t.ok(Number(await redis.sendCommand('HLEN', `${logs[0] ?? ''}:latest`)) <= 11)
  const stream = await attachMemoryStream(nodeA, session, session[kInternals].cursor)
  await waitUntil(() => stream.read().some(({ data }) => data === 50), 'the events')
  t.equal(stream.read().filter(({ event }) => event === 'state' || event === 'all').length, 2)
})

t.test('a node that has missed the replacement of its newest entries reports no gap', needsRedis, async t => {
  const [, { sessions: nodeA, pausePublications, proxy }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const stream = await attachMemoryStream(nodeA, session, session[kInternals].cursor)
  await session.join('room')
  const room = nodeB.channel('room')
  await room.send(1)
  await room.emit('state', 2, { latest: true })
  await waitUntil(() => stream.read().length === 2, 'both events')
  pausePublications(true)
  for (let n = 3; n <= 5; n++) await room.emit('state', n, { latest: true })
  proxy.connections[1]?.client.destroy()
  await waitUntil(() => stream.read().some(({ data }) => data === 5), 'the latest event')
  t.strictSame(stream.read().map(({ data }) => data), [1, 2, 5])
})

t.test('a session that has left a channel gets no gap for an event that was replaced later', needsRedis, async t => {
  const { sessions: node } = await openProxiedNode(t, await startRedis(t))
  const [session, member] = [await openSession(node), await openSession(node)]
  const stream = await attachMemoryStream(node, session)
  stream.sink.destroy()
  await waitUntil(() => !session.connected, 'the disconnect')
  for (const each of [session, member]) await each.join('room')
  await node.channel('room').emit('state', 1, { latest: true })
  await session.leave('room')
  await node.channel('room').emit('state', 2, { latest: true })
  await session.send('end')
  const resumed = await attachMemoryStream(node, session, stream.cursor)
  await waitUntil(() => resumed.read().some(({ data }) => data === 'end'), 'the event')
  t.strictSame(resumed.read().map(({ data }) => data), ['end'])
})

t.test('a retry does not remove the entry, nor a later one', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await openProxiedNode(t, redis)
  const { waitForCommand, loseReply } = loseFirstReply(client, ({ operation }) => operation === 'append')
  const session = await openSession(sessions)
  const first = session.emit('state', 1, { latest: true })
  await waitForCommand()
  await session.emit('state', 2, { latest: true })
  await loseReply()
  await first
  const entries = await redis.sendCommand('XRANGE', `{sse}:s:${session.id}:log`, '-', '+')
  matchList(t, entries, [[/^\d+-0$/, ['f', 'event: state\ndata: 2\n\n', 'x', '', 'k', 'state']]])
})
