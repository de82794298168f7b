import Fastify from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { Sessions } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { redisStore, type IoRedisClient } from '../../lib/redis.js'
import { createSessions } from '../../lib/sessions/sessions.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { random, seedOf } from '../support/random.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { until, within } from '../support/wait.js'

/** The registry of a process to which not all that is published gets through. */
async function hardOfHearing (t: Test, port: number, isLost: () => boolean): Promise<Sessions> {
  const client = new Redis({ port, host: '127.0.0.1' })
  const lossy: IoRedisClient = {
    call: (command, ...args) => client.call(command, ...args),
    on: (event, listener) => client.on(event, listener),
    off: (event, listener) => client.off(event, listener),
    duplicate: options => {
      const subscriber = client.duplicate(options)
      return {
        on: (event, listener) => subscriber.on(event, event === 'message' ? (...args: string[]) => { if (!isLost()) listener(...args) } : listener),
        subscribe: (...channels) => subscriber.subscribe(...channels),
        unsubscribe: (...channels) => subscriber.unsubscribe(...channels),
        disconnect: () => { subscriber.disconnect() }
      }
    }
  }
  const sessions = await createSessions(resolveOptions({ store: redisStore({ client: lossy, lease: 500 }), heartbeatInterval: false, closeTimeout: 100 }, 0), Fastify({ logger: false }).log)
  t.teardown(async () => {
    await within(sessions.close(), 'the store to close')
    client.disconnect()
  })
  return sessions
}

t.test('what is published to a connection that has died unnoticed comes all the same, once and in order, only later', needsRedis, async t => {
  const redis = await startRedis(t)
  const next = random(seedOf(t))
  let dead = false
  const [here, there] = [await hardOfHearing(t, redis.port, () => dead), await hardOfHearing(t, redis.port, () => false)]
  const session = await openSession(here)
  const down = await stream(here, session)
  const afar = await handleOf(there, session)
  await session.join('before')
  const sent: number[] = []
  const send = async (channels: readonly string[]): Promise<void> => {
    const sends = [
      (n: number) => afar.send(n),
      (n: number) => there.broadcast('message', n),
      ...channels.map(name => (n: number) => there.channel(name).send(n))
    ]
    for (let i = 0; i < 100; i++) {
      const n = sent.length + 1
      await sends[Math.floor(next() * sends.length)]?.(n)
      sent.push(n)
    }
  }
  dead = true
  // This process has not the channel yet, and does not hear of it.
  await afar.join('later')
  await afar.update({ nick: 'ann' })
  await send(['before', 'later'])
  await until(() => down.messages().length >= sent.length, 'what was sent while it was deaf')
  t.equal(session.data.nick, 'ann')
  await afar.leave('before')
  await afar.join('last')
  await send(['later', 'last'])
  // The connection is given up, and there is another.
  dead = false
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await send(['later', 'last'])
  await afar.close('bye')
  await until(() => down.sink.closed, 'the end')
  t.strictSame(down.read().map(({ event, data }) => event === 'message' ? data : event), [...sent, 'close'])
})
