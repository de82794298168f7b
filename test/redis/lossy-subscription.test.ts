import Fastify from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { Sessions } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { redisStore, type IoRedisClient } from '../../lib/redis.js'
import { createSessions } from '../../lib/sessions/sessions.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { waitUntil, withTimeout } from '../support/wait.js'

/** Opens the registry of a node that loses the publications of its first subscription while `isLost` returns true. */
async function openWithLossySubscription (t: Test, port: number, isLost: () => boolean): Promise<Sessions> {
  const client = new Redis({ port, host: '127.0.0.1' })
  let isFirst = true
  const lossy: IoRedisClient = {
    call: (command, ...args) => client.call(command, ...args),
    on: (event, listener) => client.on(event, listener),
    off: (event, listener) => client.off(event, listener),
    duplicate: options => {
      const subscriber = client.duplicate(options)
      const isLossy = isFirst
      isFirst = false
      return {
        call: (command, ...args) => subscriber.call(command, ...args),
        on: (event, listener) => subscriber.on(event, event === 'message' ? (...args: string[]) => { if (!isLossy || !isLost()) listener(...args) } : listener),
        subscribe: (...channels) => subscriber.subscribe(...channels),
        unsubscribe: (...channels) => subscriber.unsubscribe(...channels),
        disconnect: () => { subscriber.disconnect() }
      }
    }
  }
  const sessions = await createSessions(resolveOptions({ store: redisStore({ client: lossy, lease: 500 }), heartbeatInterval: false, closeTimeout: 100 }, 0), Fastify({ logger: false }).log)
  t.teardown(async () => {
    await withTimeout(sessions.close(), 'the store to close')
    client.disconnect()
  })
  return sessions
}

t.test('delivers events once and in order although the subscription has failed without an error', needsRedis, async t => {
  const redis = await startRedis(t)
  const next = createRandom(chooseSeed(t))
  let isSubscriptionDead = false
  const [local, remote] = [await openWithLossySubscription(t, redis.port, () => isSubscriptionDead), await openWithLossySubscription(t, redis.port, () => false)]
  const session = await openSession(local)
  const down = await attachMemoryStream(local, session)
  const remoteSession = await findSession(remote, session)
  await session.join('before')
  const sent: number[] = []
  const send = async (channels: readonly string[]): Promise<void> => {
    const sendFunctions = [
      (n: number) => remoteSession.send(n),
      (n: number) => remote.broadcast('message', n),
      ...channels.map(name => (n: number) => remote.channel(name).send(n))
    ]
    for (let i = 0; i < 100; i++) {
      const n = sent.length + 1
      await sendFunctions[Math.floor(next() * sendFunctions.length)]?.(n)
      sent.push(n)
    }
  }
  isSubscriptionDead = true
  // The local node does not subscribe to this channel yet, and misses the publication about the join.
  await remoteSession.join('later')
  await remoteSession.update({ nick: 'ann' })
  await send(['before', 'later'])
  await waitUntil(() => down.messages().length >= sent.length, 'the messages sent while publications were lost')
  t.equal(session.data.nick, 'ann')
  await remoteSession.leave('before')
  await remoteSession.join('last')
  await send(['later', 'last'])
  // The connection is killed, and the client opens a new one.
  isSubscriptionDead = false
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await send(['later', 'last'])
  await remoteSession.close('bye')
  await waitUntil(() => down.sink.closed, 'the end of the stream')
  t.strictSame(down.read().map(({ event, data }) => event === 'message' ? data : event), [...sent, 'close'])
})
