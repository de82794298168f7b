import t, { type Test } from 'tap'
import { startCluster, type Cluster } from './support/cluster.js'
import { startLink } from './support/link.js'
import { faultProxy } from '../support/proxy.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis.js'
import { positionOf } from '../support/resumption.js'
import { openStream, post, type Stream, type StreamEvent } from '../support/stream.js'
import { until, within } from '../support/wait.js'

interface Failover extends Cluster {
  /** Waits until the replica has all that there is. */
  replicated: () => Promise<void>
  /** Has the replica get nothing any more. */
  isolate: () => void
  /** Kills the primary; the replica takes its place. */
  promote: () => Promise<void>
}

async function startFailover (t: Test): Promise<Failover> {
  const primary = await startRedis(t)
  const cable = await faultProxy(t, primary.port)
  const replica = await startRedis(t, { replicaOf: cable.port })
  const link = await startLink(t, primary.port)
  const offset = async (server: RedisServer): Promise<string | undefined> => (await server.info('replication')).master_repl_offset
  const cluster = await startCluster(t, { redis: primary, redisPort: link.port })
  return {
    ...cluster,
    replicated: () => until(async () => await offset(primary) === await offset(replica), 'the replica'),
    isolate: () => { cable.setDown(true) },
    promote: async () => {
      await primary.kill()
      link.target = replica.port
      await replica.ask('REPLICAOF', 'NO', 'ONE')
    }
  }
}

const range = (first: number, last: number): number[] => Array.from({ length: last - first + 1 }, (_, index) => first + index)
const isNumber = (n: number) => ({ data }: { data: unknown }): boolean => data === n

/** Sends numbers to all sessions, in three ways, from all nodes; waits until they are confirmed, whatever Redis is going through. */
async function send ({ nodes: [first, second, third] }: Cluster, ids: string[], from: number): Promise<void> {
  const persist = (order: () => Promise<void>): Promise<void> => until(() => order().then(() => true, ({ code }) => {
    if (code !== 'FST_SSE_STORE_UNAVAILABLE') throw new Error(String(code))
    return false
  }), 'a message to be taken')
  await persist(() => first.ask('emitAll', ids, 'down', from))
  await persist(() => second.ask('publish', 'room', 'down', from + 1))
  await persist(() => third.ask('broadcast', 'down', from + 2))
}

const numbersOf = ({ events }: Stream): unknown[] => events.filter(({ event }) => event === 'down').map(({ data }) => data)

t.test('when a replica takes over that has not got the last writes, each client hears of a gap, reason store, that covers them, before all that comes later', needsRedis, async t => {
  const cluster = await startFailover(t)
  const { nodes, replicated, isolate, promote } = cluster
  const there = await openStream(t, nodes[0].url)
  const away = await openStream(t, nodes[1].url)
  const ids = [there, away].map(({ sessionId }) => sessionId)
  for (const id of ids) await nodes[2].ask('join', id, 'room')
  await send(cluster, ids, 1)
  const { id: lastId = '' } = await away.waitFor(isNumber(3))
  away.destroy()
  await send(cluster, ids, 4)
  await replicated()
  isolate()
  await send(cluster, ids, 7)
  const late = await openStream(t, nodes[2].url)
  await there.waitFor(isNumber(9))

  await promote()
  await send(cluster, ids, 10)
  await there.waitFor(isNumber(12))
  const back = await openStream(t, nodes[1].url, { headers: { 'last-event-id': lastId } })
  await back.waitFor(isNumber(12))

  const positions = new Map(there.events.filter(({ event }) => event === 'down').map(event => [event.data, positionOf(event) ?? NaN]))
  t.strictSame([...positions], [...positions].sort(([, one], [, other]) => one - other), 'no position is used twice')
  t.strictSame(numbersOf(there), range(1, 12), 'who had all goes on')
  const gap = back.events.find(({ event }) => event === 'gap')
  const { after = NaN, resumedAt = NaN, reason } = gap?.data as { after?: number, resumedAt?: number, reason?: string } ?? {}
  t.equal(reason, 'store')
  const missed = range(4, 12).filter(n => !numbersOf(back).includes(n))
  t.ok(missed.includes(7), 'something was lost')
  for (const n of missed) t.ok((positions.get(n) ?? NaN) > after && (positions.get(n) ?? NaN) <= resumedAt, `the gap covers ${n}`)
  t.strictSame(numbersOf(back), range(4, 12).filter(n => !missed.includes(n)), 'the others come in order')
  t.ok(back.events.indexOf(gap as StreamEvent) < back.events.findIndex(({ data }) => data === 10), 'behind the gap')

  await within(late.ended, 'the end of a stream')
  t.notOk(late.events.some(({ event }) => event === 'close'), 'a session that the replica never knew ends without a word that would stop its client')
  const anew = await openStream(t, cluster.url, { headers: { 'last-event-id': late.events[0]?.id ?? '' } })
  t.match(anew.events[0]?.data, { resumed: false, previous: 'unknown' })
})

t.test('where no node lives on that knew of what the replica has lost, a client that has got it hears of a gap, and then of all that comes', needsRedis, async t => {
  const cluster = await startFailover(t)
  const { nodes, replicated, isolate, promote } = cluster
  const before = await openStream(t, nodes[0].url)
  const { sessionId } = before
  await nodes[1].ask('join', sessionId, 'room')
  await send(cluster, [sessionId], 1)
  await replicated()
  isolate()
  await send(cluster, [sessionId], 4)
  const last = await before.waitFor(isNumber(6))
  for (const node of nodes) await node.kill()
  await promote()
  for (const node of nodes) await node.start()
  const back = await openStream(t, nodes[1].url, { headers: { 'last-event-id': last.id ?? '' } })
  await send(cluster, [sessionId], 7)
  await back.waitFor(isNumber(9))
  t.match(back.events.slice(0, 2), [{ data: { resumed: true } }, { event: 'gap', data: { after: positionOf(last), reason: 'store' } }])
  t.strictSame(numbersOf(back), [7, 8, 9])
})

t.test('when a replica takes over that has got all, nothing is lost, and nobody is told so', needsRedis, async t => {
  const cluster = await startFailover(t)
  const { nodes, replicated, promote } = cluster
  const stream = await openStream(t, nodes[0].url)
  const { sessionId } = stream
  await nodes[2].ask('join', sessionId, 'room')
  await send(cluster, [sessionId], 1)
  await post(nodes[1].url, sessionId, 1, { event: 'up', key: 'k' })
  await stream.waitFor(isNumber(3))
  await replicated()
  await promote()
  await send(cluster, [sessionId], 4)
  await stream.waitFor(isNumber(6))
  t.strictSame(stream.events.map(({ event }) => event), ['welcome', ...Array(6).fill('down')])
  t.strictSame(numbersOf(stream), [1, 2, 3, 4, 5, 6])
  t.match(await post(nodes[2].url, sessionId, 1, { event: 'up', key: 'k' }), { status: 200, headers: { 'idempotent-replayed': 'true' } })
})
