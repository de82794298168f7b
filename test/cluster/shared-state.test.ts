import t from 'tap'
import { startCluster } from './support/cluster.js'
import { needsRedis } from '../support/redis.js'
import { openStream, post, type Stream } from '../support/stream.js'
import { until } from '../support/wait.js'

const heard = ({ events }: Stream): unknown[] => events.slice(1).map(({ data }) => data)

t.test('what is known of a session at all nodes', needsRedis, async t => {
  const cluster = await startCluster(t)
  const { nodes } = cluster
  const [first, second, third] = nodes

  await t.test('what one node has put into its data, handlers and calls at the others see', async t => {
    const { sessionId } = await openStream(t, first.url)
    t.strictSame((await post(second.url, sessionId, { nick: 'ann' }, { event: 'update' })).body, { nick: 'ann' })
    for (const { url } of nodes) t.strictSame((await post(url, sessionId, null, { event: 'data' })).body, { nick: 'ann' })
    await third.ask('update', sessionId, { nick: 'bob', at: { row: 1 } })
    for (const node of nodes) t.strictSame((await node.ask('look', sessionId)).data, { nick: 'bob', at: { row: 1 } })
  })

  await t.test('nodes that put different properties into it at once do not undo each other', async t => {
    const { sessionId } = await openStream(t, first.url)
    const count = 60
    await Promise.all(Array.from({ length: count }, (_, n) => nodes[n % 3]?.ask('update', sessionId, { [`p${n}`]: n })))
    for (const node of nodes) {
      const { data } = await node.ask('look', sessionId)
      t.strictSame(data, Object.fromEntries(Array.from({ length: count }, (_, n) => [`p${n}`, n])))
    }
  })

  await t.test('a session enters and leaves a channel from nodes that do not have its stream', async t => {
    const stream = await openStream(t, first.url)
    const { sessionId } = stream
    await third.ask('publish', 'one', 'down', 'too early')
    await second.ask('join', sessionId, 'one')
    for (const node of nodes) {
      t.strictSame((await node.ask('look', sessionId)).channels, ['one'])
      await node.ask('publish', 'one', 'down', node.pid)
    }
    await third.ask('leave', sessionId, 'one')
    for (const node of nodes) {
      t.strictSame((await node.ask('look', sessionId)).channels, [])
      await node.ask('publish', 'one', 'down', 'too late')
    }
    await second.ask('join', sessionId, 'one')
    await first.ask('publish', 'one', 'down', 'again')
    await stream.waitFor(({ data }) => data === 'again')
    t.strictSame(heard(stream), [...nodes.map(({ pid }) => pid), 'again'])
  })

  await t.test('members at all nodes get what any node sends to their channel, or to all, in one order', async t => {
    const streams = await Promise.all([...nodes, ...nodes].map(({ url }) => openStream(t, url)))
    await Promise.all(streams.map(({ sessionId }, index) => nodes[(index + 1) % 3]?.ask('join', sessionId, 'all')))
    const [{ sessionId: excepted }] = streams as [Stream]
    await Promise.all(Array.from({ length: 150 }, (_, n) => {
      const node = nodes[n % 3] ?? first
      return n % 2 === 0 ? node.ask('publish', 'all', 'down', n) : node.ask('broadcast', 'down', n)
    }))
    await second.ask('publish', 'all', 'down', 'not for all', excepted)
    await third.ask('broadcast', 'down', 'last')
    await Promise.all(streams.map(({ waitFor }) => waitFor(({ data }) => data === 'last')))
    const [one = [], ...others] = streams.map(heard)
    t.equal(new Set(one).size, 151)
    t.equal(one.length, 151)
    for (const other of others) t.strictSame(other.filter(data => data !== 'not for all'), one)
    t.ok(others.every(other => other.at(-2) === 'not for all'))
  })

  await t.test('a client that was away gets, at another node, what came for it in all ways, in order', async t => {
    const stream = await openStream(t, first.url)
    const { sessionId } = stream
    await second.ask('join', sessionId, 'away')
    await third.ask('publish', 'away', 'down', 0)
    const { id = '' } = await stream.waitFor(({ data }) => data === 0)
    stream.destroy()
    await until(async () => !(await second.ask('look', sessionId)).connected, 'the loss of the stream')
    for (let n = 1; n <= 28; n++) {
      const node = nodes[n % 3] ?? first
      if (n % 4 === 0) await node.ask('broadcast', 'down', n)
      else if (n % 4 === 1) await node.ask('publish', 'away', 'down', n)
      else await node.ask('emit', sessionId, 'down', n)
      if (n === 20) await node.ask('leave', sessionId, 'away')
    }
    const back = await openStream(t, second.url, { headers: { 'last-event-id': id } })
    await back.waitFor(({ data }) => data === 28)
    const wanted = Array.from({ length: 28 }, (_, n) => n + 1).filter(n => n <= 20 || n % 4 !== 1)
    t.strictSame(heard(back), wanted)
    t.equal(back.events[0]?.event, 'welcome')
  })
})
