import t from 'tap'
import { openStream, postMessage } from '../support/http-client.js'
import { interceptStoreCommands } from '../support/redis-commands.js'
import { needsRedis } from '../support/redis-server.js'
import { addEndless, isEnd, partsOf } from '../support/streaming-handlers.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import { openRunNodes } from './support/run-nodes.js'

t.test('a handler on one node streams to a client of another node, which stops it', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t)
  const { closed } = addEndless(nodeA.sessions)
  const stream = await openStream(t, nodeB.url)
  t.match(await postMessage(nodeA.url, stream.sessionId, '{}', { event: 'endless', key: 'm1' }), { status: 202 })
  await stream.waitFor(({ event }) => event === 'part')
  t.match(await postMessage(nodeB.url, stream.sessionId, '{"message":"m1"}', { event: 'part' }), { status: 202 })
  await withTimeout(closed, 'the finally block')
  await stream.waitFor(isEnd)
  t.strictSame(partsOf(stream), [{ message: 'm1', data: 1 }, { message: 'm1', end: { status: 'stopped' } }])
})

t.test('when the node of the handler loses its lease, the client receives the end lost, and the handler is aborted', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t, { lease: 1000 })
  const { closed } = addEndless(nodeA.sessions)
  const stream = await openStream(t, nodeB.url)
  await postMessage(nodeA.url, stream.sessionId, '{}', { event: 'endless', key: 'm1' })
  await stream.waitFor(({ event }) => event === 'part')
  nodeA.proxy.setDown(true)
  await stream.waitFor(isEnd)
  t.strictSame(partsOf(stream), [{ message: 'm1', data: 1 }, { message: 'm1', end: { status: 'lost' } }])
  nodeA.proxy.setDown(false)
  await withTimeout(closed, 'the finally block')
})

t.test('if the reply to the start of a streaming handler is lost, its message can be repeated, and the client receives only the second run', needsRedis, async t => {
  const [redis, nodeA] = await openRunNodes(t)
  let runs = 0
  nodeA.sessions.handle('values', async function * () { yield ++runs })
  const stream = await openStream(t, nodeA.url)
  let isStarted = false
  interceptStoreCommands(nodeA.client, async commands => {
    if (isStarted || !commands.some(({ operation }) => operation === 'run_start')) return
    isStarted = true
    nodeA.proxy.connections[0]?.server.pause()
  })
  const refused = postMessage(nodeA.url, stream.sessionId, '{}', { event: 'values', key: 'm1' })
  await waitUntil(async () => await redis.sendCommand('HLEN', '{sse}:run_names') === 1, 'the start in Redis')
  t.match(await refused, { status: 503 })
  nodeA.proxy.connections[0]?.server.resume()
  t.match(await postMessage(nodeA.url, stream.sessionId, '{}', { event: 'values', key: 'm1' }), { status: 202 })
  await stream.waitFor(isEnd)
  t.strictSame(partsOf(stream), [{ message: 'm1', data: 1 }, { message: 'm1', end: { status: 'finished' } }])
})
