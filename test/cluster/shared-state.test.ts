import t from 'tap'
import { startCluster } from './support/cluster.js'
import { needsRedis } from '../support/redis-server.js'
import { openStream, postMessage, type ClientStream } from '../support/http-client.js'
import { waitUntil } from '../support/wait.js'

const receivedData = ({ events }: ClientStream): unknown[] => events.slice(1).map(({ data }) => data)

t.test('session state on several nodes', needsRedis, async t => {
  const cluster = await startCluster(t)
  const { nodes } = cluster
  const [first, second, third] = nodes

  await t.test('handlers and calls on all nodes see data that one node has set', async t => {
    const { sessionId } = await openStream(t, first.url)
    t.strictSame((await postMessage(second.url, sessionId, { nick: 'ann' }, { event: 'update' })).body, { nick: 'ann' })
    for (const { url } of nodes) t.strictSame((await postMessage(url, sessionId, null, { event: 'data' })).body, { nick: 'ann' })
    await third.call('update', sessionId, { nick: 'bob', at: { row: 1 } })
    for (const node of nodes) t.strictSame((await node.call('describe', sessionId)).data, { nick: 'bob', at: { row: 1 } })
  })

  await t.test('concurrent updates of different properties on several nodes are all kept', async t => {
    const { sessionId } = await openStream(t, first.url)
    const count = 60
    await Promise.all(Array.from({ length: count }, (_, n) => nodes[n % 3]?.call('update', sessionId, { [`p${n}`]: n })))
    for (const node of nodes) {
      const { data } = await node.call('describe', sessionId)
      t.strictSame(data, Object.fromEntries(Array.from({ length: count }, (_, n) => [`p${n}`, n])))
    }
  })

  await t.test('nodes without its stream can join a session to a channel and remove it', async t => {
    const stream = await openStream(t, first.url)
    const { sessionId } = stream
    await third.call('publish', 'one', 'down', 'too early')
    await second.call('join', sessionId, 'one')
    for (const node of nodes) {
      t.strictSame((await node.call('describe', sessionId)).channels, ['one'])
      await node.call('publish', 'one', 'down', node.pid)
    }
    await third.call('leave', sessionId, 'one')
    for (const node of nodes) {
      t.strictSame((await node.call('describe', sessionId)).channels, [])
      await node.call('publish', 'one', 'down', 'too late')
    }
    await second.call('join', sessionId, 'one')
    await first.call('publish', 'one', 'down', 'again')
    await stream.waitFor(({ data }) => data === 'again')
    t.strictSame(receivedData(stream), [...nodes.map(({ pid }) => pid), 'again'])
  })

  await t.test('members on all nodes receive channel events and broadcasts of any node in the same order', async t => {
    const streams = await Promise.all([...nodes, ...nodes].map(({ url }) => openStream(t, url)))
    await Promise.all(streams.map(({ sessionId }, index) => nodes[(index + 1) % 3]?.call('join', sessionId, 'all')))
    const [{ sessionId: exceptedId }] = streams as [ClientStream]
    await Promise.all(Array.from({ length: 150 }, (_, n) => {
      const node = nodes[n % 3] ?? first
      return n % 2 === 0 ? node.call('publish', 'all', 'down', n) : node.call('broadcast', 'down', n)
    }))
    await second.call('publish', 'all', 'down', 'with exception', exceptedId)
    await third.call('broadcast', 'down', 'last')
    await Promise.all(streams.map(({ waitFor }) => waitFor(({ data }) => data === 'last')))
    const [one = [], ...others] = streams.map(receivedData)
    t.equal(new Set(one).size, 151)
    t.equal(one.length, 151)
    for (const other of others) t.strictSame(other.filter(data => data !== 'with exception'), one)
    t.ok(others.every(other => other.at(-2) === 'with exception'))
  })

  await t.test('a client resumes on another node and receives all missed events in order', async t => {
    const stream = await openStream(t, first.url)
    const { sessionId } = stream
    await second.call('join', sessionId, 'missed')
    await third.call('publish', 'missed', 'down', 0)
    const { id = '' } = await stream.waitFor(({ data }) => data === 0)
    stream.destroy()
    await waitUntil(async () => !(await second.call('describe', sessionId)).connected, 'the disconnect')
    for (let n = 1; n <= 28; n++) {
      const node = nodes[n % 3] ?? first
      if (n % 4 === 0) await node.call('broadcast', 'down', n)
      else if (n % 4 === 1) await node.call('publish', 'missed', 'down', n)
      else await node.call('emit', sessionId, 'down', n)
      if (n === 20) await node.call('leave', sessionId, 'missed')
    }
    const resumed = await openStream(t, second.url, { headers: { 'last-event-id': id } })
    await resumed.waitFor(({ data }) => data === 28)
    const expected = Array.from({ length: 28 }, (_, n) => n + 1).filter(n => n <= 20 || n % 4 !== 1)
    t.strictSame(receivedData(resumed), expected)
    t.equal(resumed.events[0]?.event, 'welcome')
  })
})
