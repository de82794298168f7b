import t from 'tap'
import { startCluster } from './support/cluster.js'
import { random, seedOf } from '../support/random.js'
import { needsRedis } from '../support/redis.js'
import { openStream, post, remove, type Stream } from '../support/stream.js'
import { until, within } from '../support/wait.js'

const numbersOf = ({ events }: Stream): unknown[] => events.filter(({ event }) => event === 'down').map(({ data }) => data)
const namesOf = ({ events }: Stream): string[] => events.map(({ event }) => event)

t.test('a stream over nodes', needsRedis, async t => {
  const cluster = await startCluster(t)
  const { nodes: [first, second, third], told } = cluster
  const endsOf = (id: string): unknown[] => told.filter(({ session, hook }) => session === id && hook === 'onClose').map(({ detail }) => detail)

  await t.test('a stream at one node replaces that at another, which hears so, and goes on behind the client\'s last event', async t => {
    const old = await openStream(t, first.url)
    const { sessionId } = old
    for (const n of [1, 2]) await third.ask('emit', sessionId, 'down', n)
    const { id = '' } = await old.waitFor(({ data }) => data === 1)
    const stream = await openStream(t, second.url, { headers: { 'last-event-id': id } })
    await within(old.ended, 'the end of the old stream')
    for (const node of cluster.nodes) await node.ask('emit', sessionId, 'down', 3)
    await until(() => numbersOf(stream).length === 4, 'all')
    t.strictSame(numbersOf(stream), [2, 3, 3, 3])
    t.strictSame(namesOf(old), ['welcome', 'down', 'down', 'replaced'])
    t.match(await post(third.url, sessionId, 1, { event: 'up' }), { status: 200, headers: { 'x-session-connected': 'true' } })
  })

  await t.test('of thirty streams that come at once at all nodes one is left, and it alone gets what is sent', async t => {
    const next = random(seedOf(t))
    const { sessionId, ...opening } = await openStream(t, first.url)
    const streams = await Promise.all(Array.from({ length: 30 }, () => {
      const { url } = cluster.nodes[Math.floor(next() * 3)] ?? first
      return openStream(t, url, { headers: { 'last-event-id': opening.events[0]?.id ?? '' } })
    }))
    const ended = new Set<Stream>()
    for (const stream of streams) stream.ended.then(() => { ended.add(stream) })
    await until(() => ended.size === 29, 'the end of all but one')
    await third.ask('emit', sessionId, 'down', 1)
    const [last] = streams.filter(stream => !ended.has(stream))
    await last?.waitFor(({ data }) => data === 1)
    t.ok([...ended].every(stream => numbersOf(stream).length === 0))
    t.equal((await Promise.all(cluster.nodes.map(node => node.ask('stats')))).reduce((sum, { streams }) => sum + streams, 0), 1)
  })

  await t.test('a session that is closed at one node ends its stream at another, after all that was sent, and its signal at a third', async t => {
    const stream = await openStream(t, first.url)
    const { sessionId } = stream
    await third.ask('watch', sessionId)
    await second.ask('emit', sessionId, 'down', 1)
    await second.ask('close', sessionId, 'enough')
    await within(stream.ended, 'the end')
    t.strictSame(stream.events.slice(1).map(({ event, data }) => [event, data]), [['down', 1], ['close', { reason: 'enough' }]])
    await until(() => told.some(({ session, hook, node }) => session === sessionId && hook === 'abort' && node === third), 'the signal')
    t.strictSame(endsOf(sessionId), ['enough'])
    for (const node of cluster.nodes) {
      t.equal((await post(node.url, sessionId, 1, { event: 'up' })).status, 404)
      t.equal(await node.ask('isKnown', sessionId), false)
    }
    const again = await openStream(t, third.url, { headers: { 'last-event-id': 'closed' }, raw: true })
    t.equal(again.status, 204)
  })

  await t.test('a client that was away as its session was closed hears the rest of it, and the reason, at any node', async t => {
    const stream = await openStream(t, first.url)
    const { sessionId } = stream
    stream.destroy()
    await until(() => told.some(({ session, hook }) => session === sessionId && hook === 'onDisconnect'), 'the loss of the stream')
    t.match(await post(second.url, sessionId, 1, { event: 'up' }), { headers: { 'x-session-connected': 'false' } })
    await third.ask('emit', sessionId, 'down', 1)
    await second.ask('close', sessionId, 'enough')
    const back = await openStream(t, third.url, { headers: { 'last-event-id': stream.events[0]?.id ?? '' } })
    await within(back.ended, 'the end')
    t.strictSame(back.events.slice(1).map(({ event, data }) => [event, data]), [['down', 1], ['close', { reason: 'enough' }]])
  })

  await t.test('a client ends its session at any node', async t => {
    const stream = await openStream(t, first.url)
    t.equal((await remove(second.url, stream.sessionId)).status, 204)
    await within(stream.ended, 'the end')
    t.strictSame(namesOf(stream), ['welcome', 'close'])
    t.strictSame(endsOf(stream.sessionId), ['deleted'])
  })
})

t.test('a session without a stream expires once, whether its node lives or was killed; one with a stream does not', needsRedis, async t => {
  const { nodes: [first, second, third], told } = await startCluster(t, { lease: 1000, plugin: { resumeTimeout: 2000 } })
  const endsOf = (id: string): unknown[] => told.filter(({ session, hook }) => session === id && hook === 'onClose').map(({ detail }) => detail)
  const staying = await openStream(t, third.url)
  const leaving = await openStream(t, second.url)
  const orphan = await openStream(t, first.url)
  leaving.destroy()
  await first.kill()
  for (const { sessionId } of [leaving, orphan]) await until(() => endsOf(sessionId).length > 0, 'the end')
  t.equal(await second.ask('isKnown', orphan.sessionId), false)
  const since = Date.now()
  await until(() => Date.now() - since > 4000, 'twice the time that a session without a stream has')
  t.strictSame([leaving, orphan, staying].map(({ sessionId }) => endsOf(sessionId)), [['expired'], ['expired'], []])
  t.equal(await second.ask('isKnown', staying.sessionId), true)
})
