import t from 'tap'
import { StoreUnavailable, type Session } from '../../lib/index.js'
import { findSession, openSession } from '../support/memory-stream.js'
import { interceptStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openProxiedNode } from '../support/stores.js'

t.test('a large channel is listed in parts, without the members that leave meanwhile', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await openProxiedNode(t, redis)
  const { sessions: other } = await openProxiedNode(t, redis)
  const members: Session[] = []
  const addMember = async (): Promise<void> => {
    const session = await openSession(other)
    await session.join('room')
    members.push(session)
  }
  // Not all at once, because commands that wait for too long are given up.
  while (members.length < 2001) await Promise.all(Array.from({ length: 69 }, addMember))
  const [leaving, closing] = members
  let parts = 0
  interceptStoreCommands(client, async commands => {
    parts += commands.filter(({ operation }) => operation === 'members').length
    // After the first part was read, and before the sessions in it.
    if (parts !== 1 || !commands.some(({ operation }) => operation === 'get')) return
    await leaving?.leave('room')
    await closing?.close()
  })
  const found = await sessions.channel('room').sessions()
  t.strictSame(found.map(({ id }) => id).toSorted(), members.slice(2).map(({ id }) => id).toSorted())
  t.equal(parts, 3)
  t.equal(await sessions.channel('room').count(), 1999)
})

t.test('closing a channel continues with the other members if one cannot leave, and rejects', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis)
  const left: string[] = []
  sessions.addHook('onLeave', ({ shortId }) => { left.push(shortId) })
  const [first, second] = [await openSession(sessions), await openSession(sessions)]
  for (const session of [first, second]) await session.join('room')
  const member = await findSession(sessions, first)
  member.leave = async () => { throw new StoreUnavailable() }
  await t.rejects(Promise.all([sessions.channel('room').close()]), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  t.strictSame(left, [second.shortId])
  t.equal(await sessions.channel('room').count(), 1)
})

t.test('a session that Redis has removed is no member any more when the channel is listed', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis)
  const [removed, kept] = [await openSession(sessions), await openSession(sessions)]
  for (const session of [removed, kept]) await session.join('room')
  await redis.sendCommand('DEL', `{sse}:s:${removed.id}`)
  t.strictSame((await sessions.channel('room').sessions()).map(({ id }) => id), [kept.id])
  t.equal(await sessions.channel('room').count(), 1)
})
