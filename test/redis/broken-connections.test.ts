import { EventEmitter } from 'node:events'
import t from 'tap'
import type { RedisClient } from '../../lib/redis.js'
import { Subscriber } from '../../lib/store/redis/subscriber.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { openProxiedNode, testEachRedisClient } from '../support/stores.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

// The logs are large enough to keep every event of the test.
const limits = { entries: 1_000_000, bytes: 1_000_000_000 }
const options = { log: limits, channelLog: limits }

testEachRedisClient(t, 'delivers each event once and in order while connections to Redis are killed at random', async (t, store, redis) => {
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const next = createRandom(chooseSeed(t))
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  await session.join('room')
  const remote = await findSession(nodeB, session)
  const sends: Array<() => Promise<void>> = [
    () => remote.send(count),
    () => nodeB.channel('room').send(count),
    () => nodeB.broadcast('message', count)
  ]
  const results: Array<Promise<boolean>> = []
  let count = 0
  const end = performance.now() + 4000
  while (performance.now() < end) {
    const send = sends[Math.floor(next() * sends.length)]
    count++
    if (send !== undefined) results.push(send().then(() => true, () => false))
    if (next() < 0.03) await redis.sendCommand('CLIENT', 'KILL', 'TYPE', next() < 0.5 ? 'normal' : 'pubsub')
    else if (next() < 0.5) await new Promise(resolve => { setImmediate(resolve) })
  }
  const accepted = await withTimeout(Promise.all(results), 'the results')
  const expected = accepted.flatMap((isAccepted, index) => isAccepted ? [index + 1] : [])
  t.ok(expected.length > 100, `${expected.length} of ${count} were accepted`)
  await waitUntil(() => down.messages().includes(expected.at(-1)), 'the last message')
  const received = down.messages() as number[]
  t.strictSame(received.filter(n => accepted[n - 1]), expected, 'each accepted message arrives once')
  t.strictSame(received, [...received].sort((a, b) => a - b), 'messages arrive in order')
  t.equal(new Set(received).size, received.length, 'no message arrives twice')
  t.notOk(down.read().some(({ event }) => event === 'gap'), 'no gap is reported')
})

t.test('a node that cannot reach Redis for three leases ends its streams, and the clients resume on another node', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeA, proxy } = await openProxiedNode(t, redis, {}, { lease: 500 })
  const { sessions: nodeB } = await openProxiedNode(t, redis, {}, { lease: 500 })
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeA, session)
  proxy.setDown(true)
  const remote = await findSession(nodeB, session)
  await remote.send(1)
  await waitUntil(() => down.sink.closed, 'the end of the stream')
  t.strictSame(down.read(), [], 'without the event "replaced", so that the client reconnects')
  const resumed = await attachMemoryStream(nodeB, remote, down.cursor)
  await waitUntil(() => resumed.messages().length === 1, 'the message')
  proxy.setDown(false)
  await waitUntil(() => findSession(nodeA, session).then(({ connected }) => connected, () => false), 'the node to be back')
  await remote.send(2)
  await waitUntil(() => resumed.messages().length === 2, 'the next message')
  t.equal(resumed.sink.closed, false)
})

t.test('a subscription does not count if its connection was lost before it was confirmed', async t => {
  // A client without a server, because the confirmation of a real one cannot be held back until its connection is closed.
  const confirmed = deferred()
  const connection = Object.assign(new EventEmitter(), { subscribe: () => confirmed.promise, disconnect: () => {} })
  const subscriber = new Subscriber({ call: () => {}, duplicate: () => connection } as unknown as RedisClient, { onPublication: () => {}, onDisconnect: () => {}, onReady: () => { t.fail('it is ready') } })
  const opened = subscriber.open(['channel'])
  connection.emit('ready')
  connection.emit('close')
  confirmed.resolve()
  await t.rejects(opened, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  t.equal(subscriber.isReady, false)
})

t.test('unsubscribes from any number of channels, in commands with at most 1,000', async t => {
  // So many that they cannot be the arguments of one function call.
  const channels = Array.from({ length: 130_000 }, (_, n) => `channel ${n}`)
  const counts: number[] = []
  const unsubscribed = new Set<string>()
  const connection = Object.assign(new EventEmitter(), {
    subscribe: async () => {},
    unsubscribe: async (...names: string[]) => {
      counts.push(names.length)
      for (const name of names) unsubscribed.add(name)
    },
    disconnect: () => {}
  })
  const subscriber = new Subscriber({ call: () => {}, duplicate: () => connection } as unknown as RedisClient, { onPublication: () => {}, onDisconnect: () => {}, onReady: () => {} })
  const opened = subscriber.open(channels)
  connection.emit('ready')
  await opened
  subscriber.remove([])
  subscriber.remove(channels)
  t.strictSame(counts, Array.from({ length: 130 }, () => 1000))
  t.equal(unsubscribed.size, 130_000)
})
