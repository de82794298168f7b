import t from 'tap'
import { startCluster } from './support/cluster.js'
import { needsRedis } from '../support/redis.js'
import { openStream, post } from '../support/stream.js'
import { until, within } from '../support/wait.js'

const LEASE = 1000
const RESUME = 2000
const numbersOf = (events: Array<{ event: string, data: unknown }>): unknown[] => events.filter(({ event }) => event === 'down').map(({ data }) => data)

t.test('over nodes that stop and wake up', needsRedis, async t => {
  const cluster = await startCluster(t, { lease: LEASE, plugin: { resumeTimeout: RESUME } })
  const { nodes: [sleeper, second, third], runs, told } = cluster
  const asleep = async (ms: number, meanwhile: () => Promise<void>): Promise<void> => {
    const since = Date.now()
    sleeper.pause()
    await meanwhile()
    await until(() => Date.now() - since > ms, 'the time to pass')
    sleeper.resume()
  }

  await t.test('a node that slept longer than its lease delivers nothing to a stream that was replaced meanwhile, and ends no session', async t => {
    const old = await openStream(t, sleeper.url)
    const { sessionId } = old
    await third.ask('emit', sessionId, 'down', 1)
    const { id = '' } = await old.waitFor(({ data }) => data === 1)
    let stream = old
    await asleep(LEASE + 2 * RESUME, async () => {
      stream = await openStream(t, second.url, { headers: { 'last-event-id': id } })
      await third.ask('emit', sessionId, 'down', 2)
      await stream.waitFor(({ data }) => data === 2)
    })
    await third.ask('emit', sessionId, 'down', 3)
    await sleeper.ask('emit', sessionId, 'down', 4).catch(() => third.ask('emit', sessionId, 'down', 4))
    await stream.waitFor(({ data }) => data === 4)
    await within(old.ended, 'the end of a stream')
    t.strictSame(numbersOf(old.events), [1])
    t.strictSame(numbersOf(stream.events), [2, 3, 4])
    const woke = Date.now()
    await until(() => Date.now() - woke > RESUME, 'the time after which it would have expired')
    t.equal(await sleeper.ask('isKnown', sessionId), true)
    t.strictSame(told.filter(({ session, hook }) => session === sessionId && hook === 'onClose'), [])
  })

  await t.test('a session whose node slept, and that nobody else has taken over, goes on with what was sent meanwhile', async t => {
    const stream = await openStream(t, sleeper.url)
    await asleep(LEASE + RESUME / 2, async () => {
      for (const n of [1, 2, 3]) await third.ask('emit', stream.sessionId, 'down', n)
    })
    await third.ask('emit', stream.sessionId, 'down', 4)
    await stream.waitFor(({ data }) => data === 4)
    t.strictSame(stream.events.map(({ event }) => event), ['welcome', ...Array(4).fill('down')])
    t.strictSame(numbersOf(stream.events), [1, 2, 3, 4])
  })

  await t.test('a handler that wakes up after another node has handled its message cannot send', async t => {
    const stream = await openStream(t, second.url)
    const { sessionId } = stream
    const first = post(sleeper.url, sessionId, 1, { event: 'late', key: 'k' })
    await until(() => runs.some(({ session }) => session === sessionId), 'the handler')
    await second.ask('openGate')
    await asleep(2 * LEASE, async () => {
      t.match(await post(second.url, sessionId, 1, { event: 'late', key: 'k' }), { status: 202, headers: { 'idempotent-replayed': undefined } })
    })
    // It has another name by now, under which it could send.
    await until(async () => await sleeper.ask('broadcast', 'awake', 1).then(() => true, () => false), 'the node to be back')
    await sleeper.ask('openGate')
    t.match(await first, { status: 503 })
    await third.ask('emit', sessionId, 'down', 'last')
    await stream.waitFor(({ data }) => data === 'last')
    t.equal(stream.events.filter(({ event }) => event === 'late').length, 1)
  })

  await t.test('a session that expired while its node slept is told to have ended once', async t => {
    const { sessionId, ...stream } = await openStream(t, sleeper.url)
    const ends = (): string[] => told.filter(({ session, hook }) => session === sessionId && hook === 'onClose').map(({ detail }) => String(detail))
    await asleep(0, () => until(() => ends().length > 0, 'the end', 20_000))
    await within(stream.ended, 'the end of a stream')
    for (const { ask } of cluster.nodes.map(node => ({ ask: node.ask.bind(node) }))) t.equal(await ask('isKnown', sessionId), false)
    t.strictSame(ends(), ['expired'])
  })
})
