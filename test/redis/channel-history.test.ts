import t from 'tap'
import { attachMemoryStream, openSession } from '../support/memory-stream.js'
import { parseStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openProxiedNode } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

const DAY = 86_400_000

t.test('a long history is read in parts, up to the join, while others send', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await openProxiedNode(t, redis, { channelLog: { bytes: 20_000_000 } })
  const session = await openSession(sessions)
  const room = sessions.channel('room', { keep: DAY })
  for (let n = 0; n < 300; n++) await room.send(String(n).padEnd(10_000), { except: n % 10 === 0 ? session : undefined })
  const parts: string[] = []
  const call = client.call.bind(client) as (...command: string[]) => Promise<unknown>
  const callAndRecord = async (...command: string[]): Promise<unknown> => {
    const reply = await call(...command)
    if (parseStoreCommands(command).some(({ operation }) => operation === 'join' || operation === 'history')) {
      parts.push(JSON.stringify(reply))
      await room.send('live')
    }
    return reply
  }
  Object.assign(client, { call: callAndRecord })
  const expected = Array.from(Array(300).keys()).filter(n => n % 10 !== 0)
  const history = await session.join('room', { history: Infinity })
  t.strictSame(history.map(({ data }) => Number(data)), expected)
  t.ok(parts.length > 8, `${parts.length} parts`)
  t.ok(parts.every(part => part.length < 700_000), 'no part is large')
  parts.length = 0
  t.strictSame((await session.join('room', { history: 100 })).map(({ data }) => Number(data)), expected.slice(-100))
})

t.test('a channel whose entries have expired is kept again by an event with the same keep', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis, { channelLog: { age: 1 } })
  const room = sessions.channel('room', { keep: 1 })
  await room.send(1)
  const getField = async (name: string): Promise<unknown> => await redis.sendCommand('HGET', '{sse}:c:room:', name)
  await waitUntil(async () => {
    const [seconds, microseconds] = await redis.sendCommand('TIME') as [string, string]
    return Number(seconds) * 1e6 + Number(microseconds) - Number(await getField('last')) > 1000
  }, 'the event to expire')
  await room.send(2)
  t.equal(await getField('keep'), '1')
})

t.test('a channel that is kept is in Redis at least as long as its log, and then removed', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis, { resumeTimeout: 400 })
  const session = await openSession(sessions)
  await sessions.channel('room', { keep: DAY }).send(1)
  await session.join('room')
  await session.leave('room')
  const ttl = async (key: string): Promise<number> => Number(await redis.sendCommand('PTTL', `{sse}:c:room:${key}`))
  const [hash, log] = [await ttl(''), await ttl(':log')]
  t.ok(log > DAY && log < DAY * 1.3, `the log: ${log} ms`)
  t.ok(hash > log && hash < log + 10_000, `the channel: ${hash} ms`)
})

t.test('members that expired while no node was running are not counted', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis)
  const room = sessions.channel('room', { keep: DAY })
  await (await openSession(sessions)).join('room')
  await room.send(1)
  await (await openSession(sessions)).join('room')
  t.equal(await room.count(), 2)
  await redis.sendCommand('PEXPIRE', '{sse}:c:room::members', '1')
  await waitUntil(async () => await redis.sendCommand('EXISTS', '{sse}:c:room::members') === 0, 'the members to expire')
  t.equal(await room.count(), 0)
  const session = await openSession(sessions)
  t.strictSame(await session.join('room', { history: 5 }), [{ event: 'message', data: 1 }])
  t.equal(await room.count(), 1)
})

t.test('the members of a channel that is kept do not expire while a node renews them', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis, { resumeTimeout: 400 })
  const session = await openSession(sessions)
  await attachMemoryStream(sessions, session)
  await session.join('room')
  await sessions.channel('room', { keep: DAY }).send(1)
  const ttl = async (): Promise<number> => Number(await redis.sendCommand('PTTL', '{sse}:c:room::members'))
  await redis.sendCommand('PEXPIRE', '{sse}:c:room::members', '10000')
  await waitUntil(async () => await ttl() > 10_000, 'the renewal')
  t.ok(Number(await redis.sendCommand('PTTL', '{sse}:c:room:')) > DAY)
})
