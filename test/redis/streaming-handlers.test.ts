import t from 'tap'
import { openStream, postMessage } from '../support/http-client.js'
import { needsRedis } from '../support/redis-server.js'
import { addEndless, isEnd, partsOf } from '../support/streaming-handlers.js'
import { withTimeout } from '../support/wait.js'
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
