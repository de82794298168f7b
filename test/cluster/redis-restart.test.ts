import t from 'tap'
import { LONG_LEASE, startCluster } from './support/cluster.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { openStream, post } from '../support/stream.js'
import { startTraffic } from './support/traffic.js'
import { until } from '../support/wait.js'

t.test('when Redis is killed and comes back with its data, nothing is lost, comes twice or out of order, and nobody is told otherwise', needsRedis, async t => {
  const cluster = await startCluster(t, { redis: await startRedis(t, { durable: true }), lease: LONG_LEASE })
  const traffic = await startTraffic(t, cluster)
  for (let round = 0; round < 3; round++) {
    await traffic.proceeds()
    await cluster.redis.kill()
    await cluster.redis.start()
  }
  await traffic.proceeds()
  await traffic.stop()
  traffic.check(t)
  t.strictSame(traffic.parties.flatMap(({ events }) => events.map(([name]) => name)), traffic.parties.map(() => 'open'), 'the streams stayed')
  t.strictSame([...traffic.refused.values()].filter(code => code !== 'FST_SSE_STORE_UNAVAILABLE'), [])
})

t.test('when Redis comes back empty, clients are told that their sessions are lost, and go on in new ones', needsRedis, async t => {
  const cluster = await startCluster(t)
  const traffic = await startTraffic(t, cluster)
  await traffic.proceeds()
  await traffic.stop()

  const [{ session, ids }] = traffic.parties as [typeof traffic.parties[0]]
  const away = await openStream(t, cluster.url)
  away.destroy()
  const begun = session.request('gate', 'in doubt').then(() => 'answered', (error: { code: string }) => error.code)
  await until(() => cluster.runs.some(({ data }) => data === 'in doubt'), 'the handler')
  await cluster.redis.kill()
  await cluster.redis.start({ empty: true })
  await until(() => traffic.parties.every(({ ids }) => ids.length === 2), 'the new sessions')
  for (const { events } of traffic.parties) t.match(events.at(-1), ['reset', { previous: 'unknown', resumed: false }])
  t.equal(await begun, 'RESET', 'nobody knows whether it was handled')
  for (const node of cluster.nodes) await node.ask('openGate')
  const back = await openStream(t, cluster.url, { headers: { 'x-session-id': away.sessionId } })
  t.match(back.events[0]?.data, { resumed: false, previous: 'unknown' }, 'one that was away hears the same')
  t.not(back.sessionId, away.sessionId)
  for (const { url } of cluster.nodes) t.equal((await post(url, ids[0] ?? '', 1, { event: 'up' })).status, 404)

  await traffic.run()
  await traffic.proceeds()
  await traffic.stop()
  // That something was lost is told as soon as it is seen, though not yet how much.
  traffic.check(t, /^(gap )*reset$/)
})
