import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { SessionState, Store } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { redisStore } from '../../lib/redis.js'
import { monitor } from '../support/redis-monitor.js'
import { ordersOf } from '../support/redis-commands.js'
import { random, seedOf } from '../support/random.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis.js'
import { until, within } from '../support/wait.js'

// How much of a log is unsent, as Redis tells a process that has not got the log at hand.

interface Drain {
  readonly redis: RedisServer
  readonly store: Store
  readonly state: SessionState
  readonly key: string
  send (bytes: number): Promise<void>
  /** Whether a producer may go on at once. */
  isDrained (): Promise<boolean>
  /** The log's entries after a position. */
  entriesAfter (position: number): Promise<Array<{ position: number, bytes: number }>>
}

async function openDrain (t: Test, bounds: { entries: number, bytes: number }): Promise<Drain> {
  const redis = await startRedis(t)
  const client = new Redis({ port: redis.port, host: '127.0.0.1' })
  const store = await redisStore({ client })(resolveOptions({ log: bounds }, 0), { onBroadcast: () => {}, onExpire: async () => {} })
  t.teardown(async () => {
    await within(Promise.resolve(store.close('shutdown')), 'the store to close')
    client.disconnect()
  })
  const state = await store.open('session', undefined)
  if (state === undefined) throw new Error('no session')
  const key = '{sse}:s:session'
  return {
    redis,
    store,
    state,
    key,
    send: async bytes => { await store.send(state, { frame: 'x'.repeat(bytes) }) },
    isDrained: async () => {
      let drained = false
      Promise.resolve(store.waitForDrain(state)).then(() => { drained = true }, () => {})
      // It is answered in order.
      await store.count('nobody')
      return drained
    },
    entriesAfter: async position => {
      const entries = await redis.ask('XRANGE', `${key}:log`, String(position + 1), '+') as Array<[id: string, fields: [name: string, frame: string]]>
      return entries.map(([id, [, frame]]) => ({ position: Number.parseInt(id), bytes: frame.length }))
    }
  }
}

t.test('a producer may go on when less than half of what a log may keep is unsent, whatever was sent, trimmed, resumed or has grown too old', needsRedis, async t => {
  const bounds = { entries: 20, bytes: 2000 }
  const { redis, store, state, key, send, isDrained, entriesAfter } = await openDrain(t, bounds)
  const next = random(seedOf(t))
  const below = (limit: number): number => Math.floor(next() * limit)
  let cursor = state.startPosition
  const seen = { drained: 0, full: 0 }
  for (let step = 0; step < 1000; step++) {
    const kind = below(100)
    if (kind < 60) for (let n = below(4); n >= 0; n--) await send(1 + below(200))
    else if (kind === 60) {
      // As when the whole log has grown too old.
      await redis.ask('DEL', `${key}:log`)
      await redis.ask('HDEL', key, 'due')
    } else {
      // Mostly onward; a client that comes back may have got less.
      const entries = await entriesAfter(kind < 70 ? 0 : cursor)
      cursor = entries[below(entries.length)]?.position ?? cursor
      await redis.ask('HSET', key, 'cursor', String(cursor))
    }
    const unsent = await entriesAfter(cursor)
    const bytes = unsent.reduce((sum, { bytes }) => sum + bytes, 0)
    const wanted = unsent.length * 2 < bounds.entries && bytes * 2 < bounds.bytes
    seen[wanted ? 'drained' : 'full']++
    const drained = await isDrained()
    if (drained !== wanted) t.same({ step, kind, drained }, { step, kind, drained: wanted })
  }
  t.ok(seen.drained > 100 && seen.full > 100, JSON.stringify(seen))
  await store.end(state, 'closed', false)
})

t.test('a producer that goes half a log ahead, and waits there, has Redis look at each entry once', needsRedis, async t => {
  const { redis, store, state, key, send, isDrained, entriesAfter } = await openDrain(t, { entries: 200, bytes: 1_000_000 })
  const ranges: Array<[from: number, to: number]> = []
  let looks = 0
  await monitor(t, redis, (command, source) => {
    const [name, log, from, to] = command
    if (source === 'lua' && name === 'XRANGE' && log === `${key}:log`) ranges.push([Number(from), to === '+' ? Infinity : Number(to)])
    if (ordersOf(command).some(({ operation }) => operation === 'drained')) looks++
  })
  let count = 0
  while (await isDrained()) {
    await send(10)
    count++
  }
  t.equal(count, 100)
  const lookedAt = async (): Promise<number> => {
    const before = looks
    await until(() => looks >= before + 3, 'it to look again')
    const entries = await entriesAfter(0)
    const read = ranges.map(([from, to]) => entries.filter(({ position }) => position >= from && position <= to).length)
    return read.reduce((sum, number) => sum + number, 0)
  }
  t.equal(await lookedAt(), 100)
  // Another goes on, until something is trimmed that was not sent.
  for (; count < 250; count++) await send(10)
  await lookedAt()
  ranges.length = 0
  t.equal(await lookedAt(), 0)
  await store.end(state, 'closed', false)
})
