import t from 'tap'
import { startCluster } from './support/cluster.js'
import { needsRedis } from '../support/redis-server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { waitUntil, withTimeout } from '../support/wait.js'

const LEASE = 1000
const RESUME_TIMEOUT = 2000
const receivedNumbers = (events: Array<{ event: string, data: unknown }>): unknown[] => events.filter(({ event }) => event === 'down').map(({ data }) => data)

t.test('a node that is paused and resumed', needsRedis, async t => {
  const cluster = await startCluster(t, { lease: LEASE, plugin: { resumeTimeout: RESUME_TIMEOUT } })
  const { nodes: [pausedNode, second, third], handlerRuns, hookCalls } = cluster
  const whilePaused = async (ms: number, action: () => Promise<void>): Promise<void> => {
    const since = Date.now()
    pausedNode.pause()
    await action()
    await waitUntil(() => Date.now() - since > ms, 'the time to pass')
    pausedNode.resume()
  }

  await t.test('a node that was paused for longer than its lease writes nothing to a replaced stream and closes no session', async t => {
    const old = await openStream(t, pausedNode.url)
    const { sessionId } = old
    await third.call('emit', sessionId, 'down', 1)
    const { id = '' } = await old.waitFor(({ data }) => data === 1)
    let stream = old
    await whilePaused(LEASE + 2 * RESUME_TIMEOUT, async () => {
      stream = await openStream(t, second.url, { headers: { 'last-event-id': id } })
      await third.call('emit', sessionId, 'down', 2)
      await stream.waitFor(({ data }) => data === 2)
    })
    await third.call('emit', sessionId, 'down', 3)
    await pausedNode.call('emit', sessionId, 'down', 4).catch(() => third.call('emit', sessionId, 'down', 4))
    await stream.waitFor(({ data }) => data === 4)
    await withTimeout(old.ended, 'the end of the stream')
    t.strictSame(receivedNumbers(old.events), [1])
    t.strictSame(receivedNumbers(stream.events), [2, 3, 4])
    const resumedAt = Date.now()
    await waitUntil(() => Date.now() - resumedAt > RESUME_TIMEOUT, 'the resume timeout to pass')
    t.equal(await pausedNode.call('hasSession', sessionId), true)
    t.strictSame(hookCalls.filter(({ session, hook }) => session === sessionId && hook === 'onClose'), [])
  })

  await t.test('a session whose node was paused continues on it and receives the events sent during the pause', async t => {
    const stream = await openStream(t, pausedNode.url)
    await whilePaused(LEASE + RESUME_TIMEOUT / 2, async () => {
      for (const n of [1, 2, 3]) await third.call('emit', stream.sessionId, 'down', n)
    })
    await third.call('emit', stream.sessionId, 'down', 4)
    await stream.waitFor(({ data }) => data === 4)
    t.strictSame(stream.events.map(({ event }) => event), ['welcome', ...Array(4).fill('down')])
    t.strictSame(receivedNumbers(stream.events), [1, 2, 3, 4])
  })

  await t.test('a paused handler cannot send after another node has handled its message', async t => {
    const stream = await openStream(t, second.url)
    const { sessionId } = stream
    const first = postMessage(pausedNode.url, sessionId, 1, { event: 'late', key: 'k' })
    await waitUntil(() => handlerRuns.some(({ session }) => session === sessionId), 'the handler')
    await second.call('openGate')
    await whilePaused(2 * LEASE, async () => {
      t.match(await postMessage(second.url, sessionId, 1, { event: 'late', key: 'k' }), { status: 202, headers: { 'idempotent-replayed': undefined } })
    })
    // The node has registered again under a new name. Without fencing, the old handler could send under that name.
    await waitUntil(async () => await pausedNode.call('broadcast', 'resumed', 1).then(() => true, () => false), 'the node to register again')
    await pausedNode.call('openGate')
    t.match(await first, { status: 503 })
    await third.call('emit', sessionId, 'down', 'last')
    await stream.waitFor(({ data }) => data === 'last')
    t.equal(stream.events.filter(({ event }) => event === 'late').length, 1)
  })

  await t.test('the onClose hook runs once for a session that expires while its node is paused', async t => {
    const { sessionId, ...stream } = await openStream(t, pausedNode.url)
    const closeReasons = (): string[] => hookCalls.filter(({ session, hook }) => session === sessionId && hook === 'onClose').map(({ detail }) => String(detail))
    await whilePaused(0, () => waitUntil(() => closeReasons().length > 0, 'the onClose hook', 20_000))
    await withTimeout(stream.ended, 'the end of the stream')
    for (const node of cluster.nodes) t.equal(await node.call('hasSession', sessionId), false)
    t.strictSame(closeReasons(), ['expired'])
  })
})
