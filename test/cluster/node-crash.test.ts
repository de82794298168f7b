import t from 'tap'
import { startCluster } from './support/cluster.js'
import { needsRedis } from '../support/redis-server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { startTraffic } from './support/traffic.js'
import { waitUntil } from '../support/wait.js'

t.test('a client continues on another node without loss or repeats after the node of its stream is killed', needsRedis, async t => {
  const cluster = await startCluster(t)
  const traffic = await startTraffic(t, cluster)
  for (let round = 0; round < 4; round++) {
    const killedNode = await cluster.nodeWithStream(traffic.clients[round]?.sessionIds[0] ?? '')
    await killedNode.kill()
    await traffic.waitForProgress()
    await killedNode.start()
  }
  await traffic.stop()
  traffic.assertDelivery(t)
  for (const { events } of traffic.clients) t.ok(events.some(([name]) => name === 'resume'), 'its stream was interrupted')
})

t.test('after a node is killed during a handler, a repeat is handled on another node, and queued messages follow', needsRedis, async t => {
  const { nodes: [killedNode, other, third], handlerRuns, waitForReports } = await startCluster(t)
  const { sessionId } = await openStream(t, third.url)
  const failed = t.rejects(postMessage(killedNode.url, sessionId, 1, { event: 'gate', key: 'a' }))
  await waitUntil(() => handlerRuns.length === 1, 'the handler')
  await other.call('openGate')
  const messages = [{ event: 'gate', data: 1, id: 'a' }, { event: 'up', data: 2, id: 'b' }, { event: 'up', data: 3, id: 'c' }]
  const repeat = postMessage(other.url, sessionId, messages.map(message => JSON.stringify(message)).join('\n'), { headers: { 'content-type': 'application/x-ndjson' } })
  const later = postMessage(third.url, sessionId, 4, { event: 'up', key: 'd' })
  await killedNode.kill()
  await failed
  t.strictSame((await repeat).body, [1, 2, 3].map(body => ({ status: 200, body })))
  t.match(await later, { status: 200, body: 4 })
  t.match(await postMessage(third.url, sessionId, 1, { event: 'gate', key: 'a' }), { status: 200, body: 1, headers: { 'idempotent-replayed': 'true' } })
  await waitForReports()
  const [first, ...others] = handlerRuns.sort((a, b) => a.startedAt - b.startedAt)
  t.match(first, { data: 1, endedAt: undefined })
  t.strictSame(others.flatMap(({ data, pid }) => pid === other.pid ? data : []), [1, 2, 3], 'the repeat runs first, then the other messages of its batch')
  t.strictSame(others.flatMap(({ data, pid }) => pid === third.pid ? data : []), [4])
})
