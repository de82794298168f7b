import { EventEmitter } from 'node:events'
import t from 'tap'
import { noop } from '../../lib/awaitable.js'
import type { RedisClient } from '../../lib/store/redis/connection.js'
import { Subscriber } from '../../lib/store/redis/subscriber.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { createIoredis, createNodeRedis } from '../support/stores.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'

/** A client whose confirmations the test sends. A real Redis sends them at once. */
function createClient () {
  const subscribed = new Set<string>()
  const confirmations: Array<() => void> = []
  const client = Object.assign(new EventEmitter(), {
    call: noop,
    duplicate: () => {
      setImmediate(() => { client.emit('ready') })
      return client
    },
    subscribe: async (...channels: string[]) => {
      for (const channel of channels) subscribed.add(channel)
      const { promise, resolve } = deferred()
      confirmations.push(resolve)
      await promise
    },
    unsubscribe: async (...channels: string[]) => { for (const channel of channels) subscribed.delete(channel) },
    disconnect: noop
  })
  return { client: client as unknown as RedisClient, subscribed, confirmations }
}

t.test('a channel that was removed while others were subscribed does not count as subscribed', async t => {
  const { client, subscribed, confirmations } = createClient()
  const subscriber = new Subscriber(client, { onPublication: noop, onDisconnect: noop, onReady: noop })
  const confirmNext = async (): Promise<void> => {
    await waitUntil(() => confirmations.length > 0, 'a subscription')
    confirmations.shift()?.()
    await nextEventLoopTick()
  }
  const opened = subscriber.open(Array.from({ length: 1500 }, (_, n) => `channel ${n}`))
  await waitUntil(() => subscribed.size === 1000, 'the first channels')
  subscriber.remove(['channel 1400'])
  await confirmNext()
  t.equal(subscribed.size, 1499)
  t.notOk(subscribed.has('channel 1400'))
  const joined = subscriber.add(['channel 1400'])
  subscriber.remove(['channel 1400'])
  await confirmNext()
  await confirmNext()
  await Promise.all([withTimeout(opened, 'all subscriptions'), joined])
  const joinedAgain = subscriber.add(['channel 1400'])
  await confirmNext()
  await withTimeout(joinedAgain, 'the subscription')
  t.ok(subscribed.has('channel 1400'))
})

t.test('a channel can be added again although the connection was lost and the client has dropped its unsubscription', async () => {
  const { client, subscribed, confirmations } = createClient()
  const ready = deferred()
  const subscriber = new Subscriber(client, { onPublication: noop, onDisconnect: noop, onReady: () => { ready.resolve() } })
  const opened = subscriber.open(['kept', 'removed'])
  await waitUntil(() => subscribed.size === 2, 'the channels')
  confirmations.shift()?.()
  await opened
  Object.assign(client, { unsubscribe: async () => await new Promise(() => {}) })
  subscriber.remove(['removed'])
  subscribed.clear()
  for (const event of ['close', 'ready']) (client as unknown as EventEmitter).emit(event)
  await waitUntil(() => subscribed.has('kept'), 'the subscriptions of the new connection')
  confirmations.shift()?.()
  const added = subscriber.add(['removed'])
  await waitUntil(() => subscribed.has('removed'), 'the subscription')
  confirmations.shift()?.()
  await withTimeout(added, 'the confirmation')
})

t.test('sends no subscription for channels that were all removed meanwhile', async t => {
  const { client, subscribed, confirmations } = createClient()
  const subscriber = new Subscriber(client, { onPublication: noop, onDisconnect: noop, onReady: noop })
  const opened = subscriber.open(Array.from({ length: 1001 }, (_, n) => `channel ${n}`))
  await waitUntil(() => subscribed.size === 1000, 'the first channels')
  subscriber.remove(['channel 1000'])
  confirmations.shift()?.()
  await withTimeout(opened, 'all subscriptions')
  t.strictSame([subscribed.size, confirmations.length], [1000, 0])
})

for (const [library, connect] of [['ioredis', createIoredis], ['node-redis', createNodeRedis]] as const) {
  t.test(`a channel that is added again before it is unsubscribed stays subscribed: ${library}`, needsRedis, async t => {
    const redis = await startRedis(t)
    const proxy = await startFaultProxy(t, redis.port)
    const subscriber = new Subscriber(await connect(t, proxy.port), { onPublication: noop, onDisconnect: noop, onReady: noop })
    t.teardown(() => { subscriber.close() })
    await subscriber.open(['other'])
    const { client: up, server: down } = proxy.connections.at(-1) as typeof proxy.connections[number]
    const countSubscriptions = (): Promise<unknown> => redis.sendCommand('PUBSUB', 'NUMSUB', 'channel')
    down.pause()
    const added = subscriber.add(['channel'])
    await waitUntil(async () => String(await countSubscriptions()) === 'channel,1', 'the subscription')
    up.pause()
    subscriber.remove(['channel'])
    down.resume()
    await withTimeout(added, 'the confirmation')
    const addedAgain = subscriber.add(['channel'])
    up.resume()
    await withTimeout(addedAgain, 'the second confirmation')
    // Redis has executed all earlier commands of the connection then.
    await withTimeout(subscriber.add(['another']), 'a later subscription')
    t.equal(String(await countSubscriptions()), 'channel,1')
  })
}
