import t from 'tap'
import { startCluster } from './support/cluster.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { needsRedis } from '../support/redis-server.js'
import { openStream, postMessage, deleteSession, type ClientStream } from '../support/http-client.js'
import { waitUntil, withTimeout } from '../support/wait.js'

const receivedNumbers = ({ events }: ClientStream): unknown[] => events.filter(({ event }) => event === 'down').map(({ data }) => data)
const eventNames = ({ events }: ClientStream): string[] => events.map(({ event }) => event)

t.test('streams and closing on several nodes', needsRedis, async t => {
  const cluster = await startCluster(t)
  const { nodes: [first, second, third], hookCalls } = cluster
  const closeReasonsOf = (id: string): unknown[] => hookCalls.filter(({ session, hook }) => session === id && hook === 'onClose').map(({ detail }) => detail)

  await t.test('a new stream on another node replaces the old one and continues after the last event of the client', async t => {
    const old = await openStream(t, first.url)
    const { sessionId } = old
    for (const n of [1, 2]) await third.call('emit', sessionId, 'down', n)
    const { id = '' } = await old.waitFor(({ data }) => data === 1)
    const stream = await openStream(t, second.url, { headers: { 'last-event-id': id } })
    await withTimeout(old.ended, 'the end of the old stream')
    for (const node of cluster.nodes) await node.call('emit', sessionId, 'down', 3)
    await waitUntil(() => receivedNumbers(stream).length === 4, 'all events')
    t.strictSame(receivedNumbers(stream), [2, 3, 3, 3])
    t.strictSame(eventNames(old).slice(0, 3), ['welcome', 'down', 'down'])
    // Without `replaced` if the clocks of the nodes cannot tell which request is newer.
    t.ok([3, 4].includes(old.events.length))
    t.ok(['down', 'replaced'].includes(eventNames(old).at(-1) ?? ''))
    t.match(await postMessage(third.url, sessionId, 1, { event: 'up' }), { status: 200, headers: { 'x-session-connected': 'true' } })
  })

  await t.test('of thirty concurrent streams on all nodes, one stays open, and only that one receives events', async t => {
    const next = createRandom(chooseSeed(t))
    const { sessionId, ...firstStream } = await openStream(t, first.url)
    const streams = await Promise.all(Array.from({ length: 30 }, () => {
      const { url } = cluster.nodes[Math.floor(next() * 3)] ?? first
      return openStream(t, url, { headers: { 'last-event-id': firstStream.events[0]?.id ?? '' }, skipWelcome: true })
    }))
    const ended = new Set<ClientStream>()
    for (const stream of streams) stream.ended.then(() => { ended.add(stream) })
    await waitUntil(() => ended.size === 29, 'the end of 29 streams')
    await third.call('emit', sessionId, 'down', 1)
    const [remaining] = streams.filter(stream => !ended.has(stream))
    await remaining?.waitFor(({ data }) => data === 1)
    t.ok([...ended].every(stream => receivedNumbers(stream).length === 0))
    // If another node attaches a stream while a request is being answered, the request may be the newer one, so its client is told
    // to reconnect: with a `retry` field only, or with an end after the welcome.
    t.ok([...ended].every(stream => stream.status === 200 && ['replaced', 'welcome', undefined].includes(eventNames(stream).at(-1))))
    t.equal((await Promise.all(cluster.nodes.map(node => node.call('stats')))).reduce((sum, { streams }) => sum + streams, 0), 1)
  })

  await t.test('closing a session on one node ends its stream on another after its events, and aborts its signal on a third', async t => {
    const stream = await openStream(t, first.url)
    const { sessionId } = stream
    await third.call('watchSignal', sessionId)
    await second.call('emit', sessionId, 'down', 1)
    await second.call('close', sessionId, 'enough')
    await withTimeout(stream.ended, 'the end of the stream')
    t.strictSame(stream.events.slice(1).map(({ event, data }) => [event, data]), [['down', 1], ['close', { reason: 'enough' }]])
    await waitUntil(() => hookCalls.some(({ session, hook, node }) => session === sessionId && hook === 'abort' && node === third), 'the abort signal')
    t.strictSame(closeReasonsOf(sessionId), ['enough'])
    for (const node of cluster.nodes) {
      t.equal((await postMessage(node.url, sessionId, 1, { event: 'up' })).status, 404)
      t.equal(await node.call('hasSession', sessionId), false)
    }
    const reconnect = await openStream(t, third.url, { headers: { 'last-event-id': 'closed' }, skipWelcome: true })
    t.equal(reconnect.status, 204)
  })

  await t.test('a client that was disconnected at close time receives the remaining events and the reason on any node', async t => {
    const stream = await openStream(t, first.url)
    const { sessionId } = stream
    stream.destroy()
    await waitUntil(() => hookCalls.some(({ session, hook }) => session === sessionId && hook === 'onDisconnect'), 'the disconnect')
    // The hook runs before the store has recorded it for the other nodes.
    await waitUntil(async () => (await postMessage(second.url, sessionId, 1, { event: 'up' })).headers['x-session-connected'] === 'false', 'a response without a stream')
    await third.call('emit', sessionId, 'down', 1)
    await second.call('close', sessionId, 'enough')
    const resumed = await openStream(t, third.url, { headers: { 'last-event-id': stream.events[0]?.id ?? '' } })
    await withTimeout(resumed.ended, 'the end of the stream')
    t.strictSame(resumed.events.slice(1).map(({ event, data }) => [event, data]), [['down', 1], ['close', { reason: 'enough' }]])
  })

  await t.test('a client closes its session on any node', async t => {
    const stream = await openStream(t, first.url)
    t.equal((await deleteSession(second.url, stream.sessionId)).status, 204)
    await withTimeout(stream.ended, 'the end of the stream')
    t.strictSame(eventNames(stream), ['welcome', 'close'])
    t.strictSame(closeReasonsOf(stream.sessionId), ['deleted'])
  })
})
