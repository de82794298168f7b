import t, { type Test } from 'tap'
import { startCluster, type Cluster } from './support/cluster.js'
import { startTcpProxy } from './support/tcp-proxy.js'
import { faultProxy } from '../support/proxy.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis.js'
import { positionOf } from '../support/resumption.js'
import { openStream, post, type Stream, type StreamEvent } from '../support/stream.js'
import { until, within } from '../support/wait.js'

interface Failover extends Cluster {
  /** Waits until the replica has all writes. */
  waitForReplica: () => Promise<void>
  /** Cuts the connection of the replica to the primary. */
  isolateReplica: () => void
  /** Kills the primary and promotes the replica. */
  promoteReplica: () => Promise<void>
}

async function startFailover (t: Test): Promise<Failover> {
  const primary = await startRedis(t)
  const replicationProxy = await faultProxy(t, primary.port)
  const replica = await startRedis(t, { replicaOf: replicationProxy.port })
  const clientProxy = await startTcpProxy(t, primary.port)
  const offset = async (server: RedisServer): Promise<string | undefined> => (await server.info('replication')).master_repl_offset
  const cluster = await startCluster(t, { redis: primary, redisPort: clientProxy.port })
  return {
    ...cluster,
    waitForReplica: () => until(async () => await offset(primary) === await offset(replica), 'the replica'),
    isolateReplica: () => { replicationProxy.setDown(true) },
    promoteReplica: async () => {
      await primary.kill()
      clientProxy.targetPort = replica.port
      await replica.ask('REPLICAOF', 'NO', 'ONE')
    }
  }
}

const range = (first: number, last: number): number[] => Array.from({ length: last - first + 1 }, (_, index) => first + index)
const hasData = (n: number) => ({ data }: { data: unknown }): boolean => data === n

/** Sends three numbers: to each session, to the channel and to all sessions, each from another node. Repeats each one until it is confirmed. */
async function send ({ nodes: [first, second, third] }: Cluster, ids: string[], from: number): Promise<void> {
  const repeatUntilConfirmed = (action: () => Promise<void>): Promise<void> => until(() => action().then(() => true, ({ code }) => {
    if (code !== 'FST_SSE_STORE_UNAVAILABLE') throw new Error(String(code))
    return false
  }), 'a message to be confirmed')
  await repeatUntilConfirmed(() => first.call('emitAll', ids, 'down', from))
  await repeatUntilConfirmed(() => second.call('publish', 'room', 'down', from + 1))
  await repeatUntilConfirmed(() => third.call('broadcast', 'down', from + 2))
}

const receivedNumbers = ({ events }: Stream): unknown[] => events.filter(({ event }) => event === 'down').map(({ data }) => data)

t.test('after failover to a replica without the last writes, a gap with reason "store" covers the lost events', needsRedis, async t => {
  const cluster = await startFailover(t)
  const { nodes, waitForReplica, isolateReplica, promoteReplica } = cluster
  const connected = await openStream(t, nodes[0].url)
  const disconnected = await openStream(t, nodes[1].url)
  const ids = [connected, disconnected].map(({ sessionId }) => sessionId)
  for (const id of ids) await nodes[2].call('join', id, 'room')
  await send(cluster, ids, 1)
  const { id: lastId = '' } = await disconnected.waitFor(hasData(3))
  disconnected.destroy()
  await send(cluster, ids, 4)
  await waitForReplica()
  isolateReplica()
  await send(cluster, ids, 7)
  const lost = await openStream(t, nodes[2].url)
  await connected.waitFor(hasData(9))

  await promoteReplica()
  await send(cluster, ids, 10)
  await connected.waitFor(hasData(12))
  const resumed = await openStream(t, nodes[1].url, { headers: { 'last-event-id': lastId } })
  await resumed.waitFor(hasData(12))

  const positions = new Map(connected.events.filter(({ event }) => event === 'down').map(event => [event.data, positionOf(event) ?? NaN]))
  t.strictSame([...positions], [...positions].sort(([, one], [, other]) => one - other), 'no position is used twice')
  t.strictSame(receivedNumbers(connected), range(1, 12), 'the connected client received every number')
  const gap = resumed.events.find(({ event }) => event === 'gap')
  const { after = NaN, resumedAt = NaN, reason } = gap?.data as { after?: number, resumedAt?: number, reason?: string } ?? {}
  t.equal(reason, 'store')
  const missed = range(4, 12).filter(n => !receivedNumbers(resumed).includes(n))
  t.ok(missed.includes(7), 'at least one number was lost')
  for (const n of missed) t.ok((positions.get(n) ?? NaN) > after && (positions.get(n) ?? NaN) <= resumedAt, `the gap covers ${n}`)
  t.strictSame(receivedNumbers(resumed), range(4, 12).filter(n => !missed.includes(n)), 'the resumed client receives the other numbers in order')
  t.ok(resumed.events.indexOf(gap as StreamEvent) < resumed.events.findIndex(({ data }) => data === 10), 'later events follow the gap')

  await within(lost.ended, 'the end of the stream')
  t.notOk(lost.events.some(({ event }) => event === 'close'), 'the stream of a session that the replica does not have ends without a close event, so that its client reconnects')
  const reconnected = await openStream(t, cluster.url, { headers: { 'last-event-id': lost.events[0]?.id ?? '' } })
  t.match(reconnected.events[0]?.data, { resumed: false, previous: 'unknown' })
})

t.test('after failover and a restart of all nodes, a client that is ahead of the store gets a gap and later events', needsRedis, async t => {
  const cluster = await startFailover(t)
  const { nodes, waitForReplica, isolateReplica, promoteReplica } = cluster
  const first = await openStream(t, nodes[0].url)
  const { sessionId } = first
  await nodes[1].call('join', sessionId, 'room')
  await send(cluster, [sessionId], 1)
  await waitForReplica()
  isolateReplica()
  await send(cluster, [sessionId], 4)
  const last = await first.waitFor(hasData(6))
  for (const node of nodes) await node.kill()
  await promoteReplica()
  for (const node of nodes) await node.start()
  const resumed = await openStream(t, nodes[1].url, { headers: { 'last-event-id': last.id ?? '' } })
  await send(cluster, [sessionId], 7)
  await resumed.waitFor(hasData(9))
  t.match(resumed.events.slice(0, 2), [{ data: { resumed: true } }, { event: 'gap', data: { after: positionOf(last), reason: 'store' } }])
  t.strictSame(receivedNumbers(resumed), [7, 8, 9])
})

t.test('after failover to a complete replica, no event is lost and no gap is reported', needsRedis, async t => {
  const cluster = await startFailover(t)
  const { nodes, waitForReplica, promoteReplica } = cluster
  const stream = await openStream(t, nodes[0].url)
  const { sessionId } = stream
  await nodes[2].call('join', sessionId, 'room')
  await send(cluster, [sessionId], 1)
  await post(nodes[1].url, sessionId, 1, { event: 'up', key: 'k' })
  await stream.waitFor(hasData(3))
  await waitForReplica()
  await promoteReplica()
  await send(cluster, [sessionId], 4)
  await stream.waitFor(hasData(6))
  t.strictSame(stream.events.map(({ event }) => event), ['welcome', ...Array(6).fill('down')])
  t.strictSame(receivedNumbers(stream), [1, 2, 3, 4, 5, 6])
  t.match(await post(nodes[2].url, sessionId, 1, { event: 'up', key: 'k' }), { status: 200, headers: { 'idempotent-replayed': 'true' } })
})
