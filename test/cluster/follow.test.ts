import t from 'tap'
import { openStream, type ClientStream, type StreamEvent } from '../support/http-client.js'
import { needsRedis } from '../support/redis-server.js'
import { waitUntil } from '../support/wait.js'
import { follow } from '../runs/support/run-client.js'
import { startCluster } from './support/cluster.js'

interface Part {
  readonly position?: number
  readonly data?: unknown
  readonly end?: object
}

const isPart = (key: keyof Part, value?: unknown) => ({ event, data }: StreamEvent): boolean => event === 'part' && key in (data as Part) && (value === undefined || (data as Part)[key] === value)
const partsOf = ({ events }: ClientStream): Part[] => events.filter(({ event }) => event === 'part').map(({ data }) => data as Part)
const dataOf = (stream: ClientStream): unknown[] => partsOf(stream).filter(part => 'data' in part).map(({ data }) => data)

t.test('a session on one node gets a run of another node that a third node follows, over a reconnect to another node', needsRedis, async t => {
  const { nodes: [producing, following, streaming] } = await startCluster(t, { lease: 5000 })
  await follow(t, `${producing.url}/run`, { method: 'POST' })
  const stream = await openStream(t, streaming.url)
  t.equal(await following.call('followRun', stream.sessionId), true)
  await producing.call('feed', 1, 2)
  const { id = '' } = await stream.waitFor(isPart('data', 2))
  stream.destroy()
  await producing.call('feed', 3)
  const second = await openStream(t, producing.url, { headers: { 'last-event-id': id } })
  await second.waitFor(isPart('data', 3))
  await producing.call('feed', 4)
  await producing.call('endFeed')
  await second.waitFor(isPart('end'))
  t.strictSame([...dataOf(stream), ...dataOf(second)], [1, 2, 3, 4])
  t.strictSame(partsOf(second).at(-1), { run: 'a', end: { status: 'finished' } })
})

t.test('when the node that follows a run is killed, the client receives the outcome lost, and another node continues from the position', needsRedis, async t => {
  const { nodes: [producing, following, streaming] } = await startCluster(t, { lease: 1000 })
  await follow(t, `${producing.url}/run`, { method: 'POST' })
  const stream = await openStream(t, streaming.url)
  await following.call('followRun', stream.sessionId)
  await producing.call('feed', 1, 2)
  const { data } = await stream.waitFor(isPart('data', 2))
  await following.kill()
  await producing.call('feed', 3)
  await stream.waitFor(isPart('end'))
  t.strictSame(partsOf(stream).at(-1), { run: 'a', end: { status: 'lost' } })
  await streaming.call('followRun', stream.sessionId, (data as Part).position)
  await stream.waitFor(isPart('data', 3))
  await producing.call('endFeed')
  await stream.waitFor(({ data }) => JSON.stringify(data).includes('finished'))
  t.strictSame(dataOf(stream), [1, 2, 3])
})

t.test('when the node that follows a run closes, the client receives the outcome lost with the reason shutdown', needsRedis, async t => {
  const { nodes: [producing, following, streaming] } = await startCluster(t, { lease: 5000 })
  await follow(t, `${producing.url}/run`, { method: 'POST' })
  const stream = await openStream(t, streaming.url)
  await following.call('followRun', stream.sessionId)
  await producing.call('feed', 1)
  await stream.waitFor(isPart('data', 1))
  const closing = following.close()
  await stream.waitFor(isPart('end'))
  t.strictSame(partsOf(stream).at(-1), { run: 'a', end: { status: 'lost', reason: 'shutdown' } })
  await closing
})

t.test('when the node of the producer is killed, followers on other nodes end with the outcome lost', needsRedis, async t => {
  const { nodes: [producing, following, streaming] } = await startCluster(t, { lease: 1000 })
  const reader = await follow(t, `${producing.url}/run`, { method: 'POST' })
  const stream = await openStream(t, streaming.url)
  await following.call('followRun', stream.sessionId)
  await producing.call('feed', 1)
  await reader.waitFor('1')
  await producing.kill()
  await stream.waitFor(isPart('end'))
  await waitUntil(() => partsOf(stream).length === 2, 'the parts')
  t.strictSame(partsOf(stream).map(({ position, ...part }) => part), [{ run: 'a', data: 1 }, { run: 'a', end: { status: 'lost' } }])
})
