import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { SessionState, Store } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { redisStore } from '../../lib/redis.js'
import { kInternals } from '../../lib/sessions/session.js'
import { attachMemoryStream, findSession, openSession } from '../support/memory-stream.js'
import { monitorCommands } from '../support/redis-monitor.js'
import { parseStoreCommands } from '../support/redis-commands.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis-server.js'
import { nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'
import { openTwoNodes } from './support/two-nodes.js'

// waitForDrain for a log that the node does not replicate: Redis computes how much of the log is unsent.

interface DrainFixture {
  readonly redis: RedisServer
  readonly store: Store
  readonly state: SessionState
  readonly key: string
  send (bytes: number): Promise<void>
  /** Returns whether a producer may continue immediately. */
  isDrained (): Promise<boolean>
  /** Returns the entries of the log after a position. */
  entriesAfter (position: number): Promise<Array<{ position: number, bytes: number }>>
}

async function openDrainFixture (t: Test, bounds: { entries: number, bytes: number }): Promise<DrainFixture> {
  const redis = await startRedis(t)
  const client = new Redis({ port: redis.port, host: '127.0.0.1' })
  const store = await redisStore({ client })(resolveOptions({ log: bounds }, 0), { onBroadcast: () => {}, onExpire: async () => {}, onJoin: async () => {}, onLeave: async () => {} })
  t.teardown(async () => {
    await withTimeout(Promise.resolve(store.close('shutdown')), 'the store to close')
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
      let isDrainedNow = false
      Promise.resolve(store.waitForDrain(state)).then(() => { isDrainedNow = true }, () => {})
      // Commands are executed in order, so this reply follows that of waitForDrain.
      await store.count('nobody')
      return isDrainedNow
    },
    entriesAfter: async position => {
      const entries = await redis.sendCommand('XRANGE', `${key}:log`, String(position + 1), '+') as Array<[id: string, fields: [name: string, frame: string]]>
      return entries.map(([id, [, frame]]) => ({ position: Number.parseInt(id), bytes: frame.length }))
    }
  }
}

t.test('a producer may continue while less than half of the log limits is unsent, after random operations', needsRedis, async t => {
  const bounds = { entries: 20, bytes: 2000 }
  const { redis, store, state, key, send, isDrained, entriesAfter } = await openDrainFixture(t, bounds)
  const next = createRandom(chooseSeed(t))
  const randomBelow = (limit: number): number => Math.floor(next() * limit)
  let cursor = state.startPosition
  const counts = { drained: 0, full: 0 }
  for (let step = 0; step < 1000; step++) {
    const kind = randomBelow(100)
    if (kind < 60) for (let n = randomBelow(4); n >= 0; n--) await send(1 + randomBelow(200))
    else if (kind === 60) {
      // The same state as after all entries have exceeded their maximum age.
      await redis.sendCommand('DEL', `${key}:log`)
      await redis.sendCommand('HDEL', key, 'nextTrimAt')
    } else {
      // The cursor mostly moves forward. It moves back if a client resumes at an earlier position.
      const entries = await entriesAfter(kind < 70 ? 0 : cursor)
      cursor = entries[randomBelow(entries.length)]?.position ?? cursor
      await redis.sendCommand('HSET', key, 'cursor', String(cursor))
    }
    const unsent = await entriesAfter(cursor)
    const bytes = unsent.reduce((sum, { bytes }) => sum + bytes, 0)
    const shouldBeDrained = unsent.length * 2 < bounds.entries && bytes * 2 < bounds.bytes
    counts[shouldBeDrained ? 'drained' : 'full']++
    const isDrainedNow = await isDrained()
    if (isDrainedNow !== shouldBeDrained) t.same({ step, kind, isDrainedNow }, { step, kind, isDrainedNow: shouldBeDrained })
  }
  t.ok(counts.drained > 100 && counts.full > 100, JSON.stringify(counts))
  await store.end(state, 'closed', false)
})

t.test('Redis reads each log entry once while a producer waits at half of the log limits', needsRedis, async t => {
  const { redis, store, state, key, send, isDrained, entriesAfter } = await openDrainFixture(t, { entries: 200, bytes: 1_000_000 })
  const ranges: Array<[from: number, to: number]> = []
  let checks = 0
  await monitorCommands(t, redis, (command, source) => {
    const [name, log, from, to] = command
    if (source === 'lua' && name === 'XRANGE' && log === `${key}:log`) ranges.push([Number(from), to === '+' ? Infinity : Number(to)])
    if (parseStoreCommands(command).some(({ operation }) => operation === 'backlog')) checks++
  })
  let count = 0
  while (await isDrained()) {
    await send(10)
    count++
  }
  t.equal(count, 100)
  const countReadEntries = async (): Promise<number> => {
    const before = checks
    await waitUntil(() => checks >= before + 3, 'three more checks')
    const entries = await entriesAfter(0)
    const read = ranges.map(([from, to]) => entries.filter(({ position }) => position >= from && position <= to).length)
    return read.reduce((sum, number) => sum + number, 0)
  }
  t.equal(await countReadEntries(), 100)
  // Another producer sends until unsent entries are trimmed.
  for (; count < 250; count++) await send(10)
  await countReadEntries()
  ranges.length = 0
  t.equal(await countReadEntries(), 0)
  await store.end(state, 'closed', false)
})

t.test('a producer continues if its session moves to another node while a second request for the stream is aborted', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB }] = await openTwoNodes(t, { log: { entries: 4 } })
  const session = await openSession(nodeA)
  const stream = session[kInternals]
  const down = await attachMemoryStream(nodeA, session, undefined, true)
  for (const n of [1, 2]) await session.send(n)
  await waitUntil(() => stream.state.log?.isHalfFullAfter(stream.cursor) === true, 'the events')
  const drained = Promise.resolve(stream.waitForDrain())
  stream.retainForResume()
  down.sink.destroy()
  // The producer waits again, because the log is still in the process.
  await nextEventLoopTick()
  t.equal(stream.hasStream, false)
  stream.releaseAborted()
  const next = await attachMemoryStream(nodeB, await findSession(nodeB, session), down.cursor)
  await waitUntil(() => next.messages().length === 2, 'the events')
  await withTimeout(drained, 'the producer to continue')
})

t.test('a producer continues if another node has the stream before the response of its node starts', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB }] = await openTwoNodes(t, { log: { entries: 4 } })
  const session = await openSession(nodeA)
  const stream = session[kInternals]
  const { cursor } = stream
  await nodeA.acquireStream(session, cursor)
  for (const n of [1, 2]) await session.send(n)
  await waitUntil(() => stream.state.log?.isHalfFullAfter(cursor) === true, 'the events')
  const drained = Promise.resolve(stream.waitForDrain())
  const next = await attachMemoryStream(nodeB, await findSession(nodeB, session), cursor)
  await waitUntil(() => next.messages().length === 2, 'the events')
  await withTimeout(drained, 'the producer to continue')
})
