import { EventEmitter } from 'node:events'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Session, Sessions } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { CommandQueue, isNotExecuted } from '../../lib/store/redis/command-queue.js'
import { COMMAND_TIMEOUT, CommandConnection, type RedisClient } from '../../lib/store/redis/connection.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { interceptStoreCommands, loseFirstReply, parseStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis-server.js'
import { testEachRedisClient, openProxiedNode, type ProxiedNode } from '../support/stores.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'

const UNAVAILABLE = { code: 'FST_SSE_STORE_UNAVAILABLE' }

/** Opens a node and records the operations of each command it sends, without heartbeats. */
async function recordCommands (t: Test, redis: RedisServer): Promise<ProxiedNode & { readonly commands: string[][] }> {
  const node = await openProxiedNode(t, redis)
  const { client } = node
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  const commands: string[][] = []
  const callAndRecord = async (...command: string[]): Promise<unknown> => {
    const storeCommands = parseStoreCommands(command).filter(({ sequence }) => sequence > 0)
    if (storeCommands.length > 0) commands.push(storeCommands.map(({ operation }) => operation))
    return await call(...command)
  }
  Object.assign(client, { call: callAndRecord })
  return { ...node, commands }
}

t.test('combines the operations of one event loop tick into few commands, in order', needsRedis, async t => {
  const { sessions, commands } = await recordCommands(t, await startRedis(t))
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  commands.length = 0
  const numbers = Array.from({ length: 200 }, (_, n) => n)
  await Promise.all(numbers.map(async n => { await (n % 2 === 0 ? session.send(n) : sessions.broadcast('message', n)) }))
  const appendCounts = commands.map(operations => operations.filter(operation => operation === 'append').length).filter(appends => appends > 0)
  t.equal(appendCounts.length, 2)
  t.equal(appendCounts.reduce((sum, appends) => sum + appends), 200)
  await waitUntil(() => down.messages().length === 200, 'all messages')
  t.strictSame(down.messages(), numbers)
})

testEachRedisClient(t, 'does not reject a command whose reply arrived while the event loop was blocked', async (t, store) => {
  const session = await openSession(await store.addNode())
  const sent = session.send(1)
  // The queue sends the command in the first tick, and node-redis writes it in the second.
  await nextEventLoopTick()
  await nextEventLoopTick()
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, COMMAND_TIMEOUT + 500)
  await t.resolves(sent)
})

t.test('an operation that fails does not affect other operations of the same command', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, commands } = await recordCommands(t, redis)
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  await redis.sendCommand('SET', '{sse}:c:bad:', 'not a channel')
  commands.length = 0
  const sent = [sessions.broadcast('message', 1), sessions.channel('bad').send(2), sessions.broadcast('message', 3)]
  await t.rejects(Promise.resolve(sent[1]), UNAVAILABLE)
  await Promise.all([sent[0], sent[2]])
  await waitUntil(() => down.messages().length === 2, 'the other messages')
  t.strictSame(down.messages(), [1, 3])
  t.strictSame(commands, [['append', 'append', 'append'], ['append']])
})

t.test('without free memory in Redis, rejects only what needs more', needsRedis, async t => {
  const redis = await startRedis(t)
  const options = { resumeTimeout: 1000 }
  const { sessions } = await openProxiedNode(t, redis, options, { lease: 500 })
  const { sessions: otherSessions } = await openProxiedNode(t, redis, options, { lease: 500 })
  const expired = deferred()
  for (const node of [sessions, otherSessions]) node.addHook('onClose', ({ id }, reason) => { if (id === idle.id && reason === 'expired') expired.resolve() })
  const [session, left, idle] = [await openSession(sessions), await openSession(sessions), await openSession(sessions)]
  const [down, leftStream, idleStream] = [await attachMemoryStream(sessions, session), await attachMemoryStream(sessions, left), await attachMemoryStream(sessions, idle)]
  await session.join('room')
  await session.send(1)
  await redis.sendCommand('CONFIG', 'SET', 'maxmemory', '1')
  await t.rejects(Promise.resolve(session.send(2)), UNAVAILABLE)
  await t.rejects(openSession(sessions), UNAVAILABLE)
  // A command that is refused does not delay the others.
  const refused = sessions.broadcast('message', 3)
  await session.leave('room')
  await t.rejects(Promise.resolve(refused), UNAVAILABLE)
  leftStream.sink.destroy()
  await waitUntil(async () => await redis.sendCommand('HGET', `{sse}:s:${left.id}`, 'owner') === '', 'the owner to be released')
  // Later than the lease: the nodes renew it.
  idleStream.sink.destroy()
  await withTimeout(expired.promise, 'the expiry')
  const resumed = await attachMemoryStream(otherSessions, await findSession(otherSessions, session), down.cursor)
  await waitUntil(() => resumed.messages().length === 1, 'the message')
  await redis.sendCommand('CONFIG', 'SET', 'maxmemory', '0')
  await session.send(4)
  await waitUntil(() => resumed.messages().length === 2, 'the next message')
  t.strictSame(resumed.messages(), [1, 4])
})

t.test('without free memory in Redis, sends do not delay what needs no more', needsRedis, async t => {
  const redis = await startRedis(t)
  const options = { resumeTimeout: 1000 }
  const { sessions, client } = await openProxiedNode(t, redis, options)
  const expired = deferred()
  sessions.addHook('onClose', ({ id }, reason) => { if (id === idle.id && reason === 'expired') expired.resolve() })
  const [session, idle] = [await openSession(sessions), await openSession(sessions)]
  const [down, idleStream] = [await attachMemoryStream(sessions, session), await attachMemoryStream(sessions, idle)]
  await session.send(1)
  await waitUntil(() => down.messages().length === 1, 'the message')
  await redis.sendCommand('CONFIG', 'SET', 'maxmemory', '1')
  // Whatever the node sends, another event is in its queue when it sends again.
  const results = new Set<string>()
  interceptStoreCommands(client, () => { sessions.broadcast('message', 1).then(() => 'sent', ({ code }) => code as string).then(result => results.add(result)) })
  idleStream.sink.destroy()
  down.sink.destroy()
  await waitUntil(async () => await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner') === '', 'the owner to be released')
  const resumed = await attachMemoryStream(sessions, session, down.cursor)
  await waitUntil(() => resumed.messages().length === 1, 'the message')
  await withTimeout(expired.promise, 'the expiry')
  t.strictSame([...results], [UNAVAILABLE.code])
})

t.test('while Redis cannot write to its disk, rejects sends, and retries the release of a stream until it succeeds', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  // A snapshot cannot replace a folder.
  const [, folder] = await redis.sendCommand('CONFIG', 'GET', 'dir') as [string, string]
  mkdirSync(join(folder, 'dump.rdb', 'folder'), { recursive: true })
  await redis.sendCommand('CONFIG', 'SET', 'save', '3600 1')
  await redis.sendCommand('BGSAVE')
  await waitUntil(async () => (await redis.info('persistence')).rdb_last_bgsave_status === 'err', 'the snapshot to fail')
  await t.rejects(Promise.resolve(session.send(1)), UNAVAILABLE)
  down.sink.destroy()
  await t.rejects(Promise.resolve(session.send(2)), UNAVAILABLE)
  t.equal(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner') === '', false)
  await redis.sendCommand('CONFIG', 'SET', 'stop-writes-on-bgsave-error', 'no')
  await waitUntil(async () => await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner') === '', 'the owner to be released')
})

t.test('while the user of the client lacks rights, rejects sends, and retries the release of a stream until it succeeds', needsRedis, async t => {
  const redis = await startRedis(t)
  const setUser = (...rules: string[]): Promise<unknown> => redis.sendCommand('ACL', 'SETUSER', 'app', ...rules)
  await setUser('on', '>secret', '~*', '&*', '+@all')
  const { sessions } = await openProxiedNode(t, redis, {}, { username: 'app', password: 'secret' })
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  await setUser('-evalsha')
  down.sink.destroy()
  await t.rejects(Promise.resolve(session.send(1)), UNAVAILABLE)
  await t.rejects(Promise.resolve(session.send(2)), UNAVAILABLE)
  t.equal(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner') === '', false)
  await setUser('+evalsha')
  await waitUntil(async () => await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'owner') === '', 'the owner to be released')
})

t.test('does not execute an operation that timed out while Redis was paused, but executes its neighbors', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis)
  const { sessions: otherSessions } = await openProxiedNode(t, redis)
  const [session, left] = [await openSession(sessions), await openSession(sessions)]
  const leftStream = await attachMemoryStream(sessions, left)
  const { cursor } = session[kInternals]
  redis.pause()
  const since = performance.now()
  leftStream.sink.destroy()
  await Promise.resolve()
  await t.rejects(Promise.resolve(session.send(1)), UNAVAILABLE)
  const second = session.send(2)
  // The extra 100 ms cover the difference between the clocks of the node and Redis.
  await waitUntil(() => performance.now() - since > 2100, 'the timeout to pass')
  redis.resume()
  await second
  const down = await attachMemoryStream(otherSessions, await findSession(otherSessions, session), cursor)
  await waitUntil(() => down.messages().length > 0, 'the message')
  t.strictSame(down.messages(), [2])
  await waitUntil(async () => await redis.sendCommand('HGET', `{sse}:s:${left.id}`, 'owner') === '', 'the owner to be released')
})

t.test('does not repeat an executed operation if the client loses its reply', needsRedis, async t => {
  const { sessions, client } = await openProxiedNode(t, await startRedis(t))
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  const [second, resent] = [deferred(), deferred()]
  let appends = 0
  const callAndLoseReply = async (...command: string[]): Promise<unknown> => {
    const number = parseStoreCommands(command).some(({ operation }) => operation === 'append') ? ++appends : 0
    const reply = await call(...command)
    if (number === 1) {
      // A command timeout of the client, after the reply to a later command has arrived.
      await second.promise
      throw new Error('Command timed out')
    }
    if (number === 3) resent.resolve()
    return reply
  }
  Object.assign(client, { call: callAndLoseReply })
  const first = session.send(1)
  await waitUntil(() => appends === 1, 'the first command')
  await session.send(2)
  second.resolve()
  await first
  await withTimeout(resent.promise, 'the retry')
  await waitUntil(() => down.messages().length === 2, 'both messages')
  t.strictSame(down.messages(), [1, 2])
  t.equal(appends, 3)
})

/** Creates sessions, and a channel whose history takes Redis some milliseconds to read. */
async function openSessionsAndHistory (sessions: Sessions, count: number): Promise<Session[]> {
  const room = sessions.channel('room', { keep: 60_000 })
  for (let n = 0; n < 10; n++) await Promise.all(Array.from({ length: 100 }, () => room.send('x'.repeat(150))))
  return await Promise.all(Array.from({ length: count }, () => openSession(sessions)))
}

t.test('executes commands that would block Redis for long in parts, each command once and in order', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await openProxiedNode(t, redis)
  const members = await openSessionsAndHistory(sessions, 8)
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  const parts: number[] = []
  const callAndCount = async (...command: string[]): Promise<unknown> => {
    const hasJoins = parseStoreCommands(command).some(({ operation }) => operation === 'join')
    const reply = await call(...command) as [string, unknown[]]
    if (hasJoins) parts.push(reply[1].length)
    return reply
  }
  Object.assign(client, { call: callAndCount })
  const histories = await Promise.all(members.map(session => session.join('room', { history: 1000 })))
  t.strictSame(histories.map(({ length }) => length), members.map(() => 1000))
  t.strictSame(parts, [2, 2, 2, 2])
  t.equal(await redis.sendCommand('HGET', '{sse}:c:room:', 'joins'), '8')
})

t.test('executes no command a second time if the reply to a part of a batch is lost', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await openProxiedNode(t, redis)
  const joined: string[] = []
  sessions.addHook('onJoin', ({ id }) => { joined.push(id) })
  const members = await openSessionsAndHistory(sessions, 4)
  const { waitForCommand, loseReply } = loseFirstReply(client, ({ operation }) => operation === 'join')
  const joins = Promise.all(members.map(session => session.join('room', { history: 1000 })))
  await waitForCommand()
  await loseReply()
  t.strictSame((await joins).map(({ length }) => length), members.map(() => 1000))
  t.equal(await redis.sendCommand('HGET', '{sse}:c:room:', 'joins'), '4')
  t.strictSame(joined.toSorted(), members.map(({ id }) => id).toSorted())
})

t.test('a refusal proves that Redis has not executed a command only if the connection was not lost or replaced', async t => {
  for (const [change, isCertain] of [['none', true], ['lost', false], ['replaced', false]] as const) {
    const call = deferred<Error>()
    const client = Object.assign(new EventEmitter(), { call: async () => { throw await call.promise }, disconnect: () => {}, duplicate: () => Object.assign(new EventEmitter(), { disconnect: () => {} }) })
    const connection = new CommandConnection(client as unknown as RedisClient, () => {})
    const script = { sha: '', text: '' }
    const queue = new CommandQueue(connection, { refusedWhenFull: script, executedWhenFull: script }, '', { onHeartbeatNeeded: () => {}, onReply: () => {}, getHighestPosition: () => 0 })
    queue.register('node')
    const result = queue.execute('count', 'a').catch((error: unknown) => error)
    await nextEventLoopTick()
    if (change === 'lost') client.emit('close')
    if (change === 'replaced') connection.replace()
    call.resolve(new Error('READONLY You cannot write against a read only replica'))
    await nextEventLoopTick()
    queue.close()
    connection.close()
    t.equal(isNotExecuted(await result), isCertain, change)
  }
})

t.test('sends the rest of a batch that was executed in part, and everything else after it', async t => {
  const batches: Array<{ names: string[], reply: (reply: [string, unknown[]]) => void }> = []
  const connection = {
    isConnected: true,
    command: async (args: string[]) => await new Promise(resolve => { batches.push({ names: parseStoreCommands(args).map(({ args: [name = ''] }) => name), reply: resolve }) })
  }
  const script = { sha: '', text: '' }
  const queue = new CommandQueue(connection as unknown as CommandConnection, { refusedWhenFull: script, executedWhenFull: script }, '', { onHeartbeatNeeded: () => {}, onReply: () => {}, getHighestPosition: () => 0 })
  t.teardown(() => { queue.close() })
  const sent = (): string[][] => batches.map(({ names }) => names)
  const results: string[] = []
  const execute = async (...names: string[]): Promise<void> => {
    for (const name of names) queue.execute('count', name).then(result => { results.push(result as string) }, t.fail)
    await nextEventLoopTick()
  }
  const reply = async (index: number, failure: string, ...replies: string[]): Promise<void> => {
    batches[index]?.reply([failure, replies])
    await nextEventLoopTick()
  }
  queue.register('node')
  const names = Array.from({ length: 64 }, (_, n) => `a${n}`)
  await execute(...names)
  await execute('b', 'c')
  t.strictSame(sent(), [names, ['b', 'c']])
  await reply(0, 'CONTINUE', 'a0')
  const rest = [...names.slice(1), 'b']
  t.strictSame(sent().slice(2), [rest])
  // Redis refuses what was sent after the first batch.
  await reply(1, 'REORDERED')
  await execute('d')
  t.strictSame(sent().slice(3), [])
  await reply(2, '', ...rest)
  t.strictSame(sent().slice(3), [['c', 'd']])
  await reply(3, '', 'c', 'd')
  t.strictSame(results, [...names, 'b', 'c', 'd'])
  await execute('e')
  t.strictSame(sent().slice(4), [['e']])
  await reply(4, '', 'e')
  await execute('f', 'g')
  await reply(5, 'CONTINUE', 'f')
  // The rest of a batch can be refused as well. It is sent again later.
  await reply(6, 'REORDERED')
  await waitUntil(() => batches.length === 8, 'the rest to be sent again')
  await reply(7, '', 'g')
  t.equal(results.at(-1), 'g')
})

t.test('limits the bytes of a batch', needsRedis, async t => {
  const { sessions, commands } = await recordCommands(t, await startRedis(t))
  await Promise.all([100_000, 100_000, 100_000, 300_000, 1].map(size => sessions.broadcast('message', 'x'.repeat(size))))
  t.strictSame(commands.filter(([operation]) => operation === 'append').map(({ length }) => length), [2, 1, 1, 1])
})

testEachRedisClient(t, 'splits operations that exceed the maximum size of one command', async (t, store) => {
  const session = await openSession(await store.addNode())
  const change = Object.fromEntries(Array.from({ length: 2000 }, (_, n) => [`property ${n}`, undefined]))
  await Promise.all(Array.from({ length: 8 }, () => session.update(change)))
  await session.update({ last: 1 })
  t.strictSame(session.data, { last: 1 })
})

testEachRedisClient(t, 'loads the script once after SCRIPT FLUSH, even if many commands fail at once', async (t, store, redis) => {
  const sessions = await store.addNode()
  const session = await openSession(sessions)
  const countLoads = async (): Promise<number> => Number(/calls=(\d+)/.exec((await redis.info('commandstats'))['cmdstat_script|load'] ?? '')?.[1])
  const before = await countLoads()
  await redis.sendCommand('SCRIPT', 'FLUSH')
  await Promise.all(Array.from({ length: 200 }, (_, n) => session.send(n)))
  const newLoads = await countLoads() - before
  t.ok(newLoads >= 1 && newLoads <= 3, `${newLoads} loads`)
})
