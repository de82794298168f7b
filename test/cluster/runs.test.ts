import t from 'tap'
import { connect } from '../../lib/client/node.js'
import { dataOf, follow, type RunResponse } from '../runs/support/run-client.js'
import { needsRedis } from '../support/redis-server.js'
import { waitUntil } from '../support/wait.js'
import { startCluster } from './support/cluster.js'
import { startLoadBalancer } from './support/load-balancer.js'

const LEASE = 1000

const finalData = ({ events }: RunResponse): unknown => JSON.parse(events.find(({ event }) => event === 'end')?.data ?? 'null')

t.test('when the node of the producer is killed, readers on all other nodes receive the outcome lost', needsRedis, async t => {
  const { nodes: [producing, ...others] } = await startCluster(t, { lease: LEASE })
  const local = await follow(t, `${producing.url}/run`, { method: 'POST' })
  await producing.call('feed', 1, 2)
  await local.waitFor('2')
  const readers = await Promise.all(others.map(node => follow(t, `${node.url}/run`)))
  for (const reader of readers) await reader.waitFor('2')
  await producing.kill()
  t.equal(await local.isComplete, false, 'its own response is aborted')
  for (const reader of readers) t.equal(await reader.isComplete, true)
  for (const reader of readers) {
    t.strictSame(dataOf(reader), ['1', '2'])
    t.strictSame(finalData(reader), { status: 'lost' })
  }
  const resumed = await follow(t, `${others[0].url}/run`, { headers: { 'last-event-id': local.lastEventId() } })
  t.equal(await resumed.isComplete, true)
  t.strictSame(finalData(resumed), { status: 'lost' })
  // The name is free again.
  const next = await follow(t, `${others[0].url}/run`, { method: 'POST' })
  await others[0].call('feed', 3)
  await others[0].call('endFeed')
  t.equal(await next.isComplete, true)
  t.strictSame(dataOf(next), ['3'])
})

t.test('readers, followers and subscribers receive the outcome lost within the lease and one second after a kill', needsRedis, async t => {
  const { nodes: [killed, ...others] } = await startCluster(t, { lease: LEASE })
  const local = await follow(t, `${killed.url}/run`, { method: 'POST' })
  await killed.call('feed', 1)
  await local.waitFor('1')
  const receivedAt = new Map<string, number>()
  const record = (what: string): void => { receivedAt.set(what, performance.now()) }
  for (const node of others) {
    const reader = await follow(t, `${node.url}/run`)
    await reader.waitFor('1')
    reader.waitFor('{"status":"lost"}').then(() => { record(`reader of ${node.url}`) })
  }
  let ports = [others[0].port]
  const session = connect(await startLoadBalancer(t, () => ports))
  t.teardown(() => session.close())
  await waitUntil(() => session.state === 'open', 'the session')
  let ends = 0
  session.on('part', part => {
    const { run, end } = part as { run?: string, end?: { status: string } }
    if (run === 'a' && end?.status === 'lost') record(`follower ${++ends}`)
  })
  for (const node of [killed, others[1]]) t.equal(await node.call('followRun', session.sessionId ?? ''), true)
  // The handler runs on the node that is killed; the stream is on another one.
  ports = [killed.port]
  let values = 0
  const subscribed = (async () => { for await (const value of session.subscribe('values', { last: 1e6 })) values = Number(value) })().catch((error: unknown) => {
    t.match(error, { code: 'HANDLER_LOST' })
    record('subscriber')
  })
  await waitUntil(() => values > 3, 'the values')
  const killedAt = performance.now()
  await killed.kill()
  await subscribed
  await waitUntil(() => receivedAt.size === 5, 'the outcomes')
  for (const [what, time] of receivedAt) t.ok(time - killedAt <= LEASE + 1000, `${what}: ${Math.round(time - killedAt)} ms`)
})

t.test('when the nodes of a restartable producer are killed, readers on another node receive every event once', needsRedis, async t => {
  const { nodes, hookCalls } = await startCluster(t, { lease: LEASE })
  const [first, ...others] = nodes
  const local = await follow(t, `${first.url}/count`, { method: 'POST', body: { last: 1200 } })
  await local.waitFor('5')
  const starts = (): typeof hookCalls => hookCalls.filter(({ hook }) => hook === 'producerStart')
  const firstOf = (call: (typeof hookCalls)[number] | undefined): number => (call?.detail as { first: number }).first
  const readers = await Promise.all(others.map(node => follow(t, `${node.url}${local.headers.get('location') ?? ''}`)))
  for (const reader of readers) await reader.waitFor('10')
  await first.kill()
  t.equal(await local.isComplete, false)
  await waitUntil(() => starts().length === 2, 'the restart')
  const [, restart] = starts()
  t.ok(firstOf(restart) > 10, 'it continues after the last event')
  const remaining = others.indexOf(restart?.node as typeof first) === 0 ? 1 : 0
  const reader = readers[remaining] as RunResponse
  await reader.waitFor(`${firstOf(restart) + 50}`)
  await restart?.node.kill()
  const resumed = await follow(t, `${others[remaining]?.url}/count`, { headers: { 'last-event-id': local.lastEventId() } })
  const numbers = Array.from({ length: 1200 }, (_, n) => String(n))
  for (const { isComplete } of [reader, resumed]) t.equal(await isComplete, true)
  t.strictSame(dataOf(reader), numbers)
  t.strictSame([...dataOf(local), ...dataOf(resumed)], numbers)
  for (const { events } of [reader, resumed]) t.equal(events.at(-1)?.data, '{"status":"finished"}')
  t.equal(starts().length, 3)
})

t.test('when the node of a reader is killed, its client continues on another node with Last-Event-ID', needsRedis, async t => {
  const { nodes: [producing, killed, other] } = await startCluster(t, { lease: LEASE })
  const whole = await follow(t, `${producing.url}/run`, { method: 'POST' })
  const first = await follow(t, `${killed.url}/run`)
  await producing.call('feed', 1, 2)
  await first.waitFor('2')
  await killed.kill()
  t.equal(await first.isComplete, false)
  await producing.call('feed', 3)
  const second = await follow(t, `${other.url}/run`, { headers: { 'last-event-id': first.lastEventId() } })
  await producing.call('feed', 4)
  await producing.call('endFeed')
  t.equal(await second.isComplete, true)
  t.strictSame(dataOf(second), ['3', '4'])
  t.strictSame(finalData(second), { status: 'finished' })
  await whole.isComplete
  t.strictSame(dataOf(whole), ['1', '2', '3', '4'])
})

t.test('when the node of the producer closes, readers on the other nodes receive the outcome lost with the reason shutdown', needsRedis, async t => {
  const { nodes: [closing, other] } = await startCluster(t, { lease: 5000 })
  const local = await follow(t, `${closing.url}/run`, { method: 'POST' })
  await closing.call('feed', 1)
  await local.waitFor('1')
  const remote = await follow(t, `${other.url}/run`)
  t.equal(await closing.close(), 0)
  t.equal(await local.isComplete, false)
  t.equal(await remote.isComplete, true)
  t.strictSame(finalData(remote), { status: 'lost', reason: 'shutdown' })
})

t.test('a node that was paused for longer than its lease adds nothing to its run, whose producer stops', needsRedis, async t => {
  const { nodes: [paused, other], hookCalls } = await startCluster(t, { lease: LEASE })
  const local = await follow(t, `${paused.url}/run`, { method: 'POST' })
  await paused.call('feed', 1)
  await local.waitFor('1')
  const remote = await follow(t, `${other.url}/run`)
  paused.pause()
  t.equal(await remote.isComplete, true)
  t.strictSame(finalData(remote), { status: 'lost' })
  paused.resume()
  await paused.call('feed', 2)
  await waitUntil(() => hookCalls.some(({ hook }) => hook === 'producerEnd'), 'the end of the producer')
  t.equal(await local.isComplete, true)
  t.strictSame(dataOf(local), ['1'])
  t.strictSame(finalData(local), { status: 'lost' })
})

t.test('a run of a resumable route is followed and stopped on another node by its Location', needsRedis, async t => {
  const { nodes: [producing, other], hookCalls } = await startCluster(t)
  const headers = { 'idempotency-key': 'key' }
  const local = await follow(t, `${producing.url}/ask`, { method: 'POST', headers })
  await producing.call('feed', 1)
  await local.waitFor('1')
  const location = `${other.url}${local.headers.get('location')}`
  const remote = await follow(t, location)
  await remote.waitFor('1')
  const repeated = await follow(t, `${other.url}/ask`, { method: 'POST', headers })
  await repeated.waitFor('1')
  t.equal(repeated.headers.get('idempotent-replayed'), 'true')
  t.equal((await follow(t, `${other.url}/ask`, { method: 'POST', headers, body: { other: true } })).status, 422)
  t.equal((await fetch(location, { method: 'DELETE' })).status, 204)
  for (const reader of [local, remote, repeated]) {
    t.equal(await reader.isComplete, true)
    t.strictSame(finalData(reader), { status: 'stopped', reason: 'deleted' })
  }
  await waitUntil(() => hookCalls.some(({ hook, detail }) => hook === 'producerEnd' && detail === true), 'the end of the producer')
})
