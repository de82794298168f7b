import t from 'tap'
import type { Redis } from 'ioredis'
import { kInternals } from '../../lib/sessions/session.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { openTwoNodes } from './support/two-nodes.js'
import { monitorCommands } from '../support/redis-monitor.js'
import { countReplies, parseStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openProxiedNode } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

// How much a node reads from Redis, in bytes and commands.

/** Records the sizes of the replies to the commands that read logs. */
function recordReplySizes (client: Redis): number[] {
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  const sizes: number[] = []
  const callAndRecord = async (...command: string[]): Promise<unknown> => {
    const reply = await call(...command)
    if (parseStoreCommands(command).some(({ operation }) => operation === 'acquire' || operation === 'read')) sizes.push(JSON.stringify(reply).length)
    return reply
  }
  Object.assign(client, { call: callAndRecord })
  return sizes
}

t.test('a client that changes nodes and has missed nothing causes less than 1 kB of reads', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB, client }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const first = await attachMemoryStream(nodeA, session)
  await session.join('room')
  for (let n = 0; n < 100; n++) {
    await session.send('x'.repeat(1000))
    await nodeA.channel('room').send('x'.repeat(1000))
  }
  await waitUntil(() => first.messages().length === 200, 'the messages')
  const sizes = recordReplySizes(client)
  const second = await attachMemoryStream(nodeB, await findSession(nodeB, session), session[kInternals].cursor)
  await nodeA.channel('room').send('new')
  await waitUntil(() => second.messages().includes('new'), 'the next message')
  t.strictSame(second.messages(), ['new'])
  const bytes = sizes.reduce((sum, size) => sum + size)
  t.ok(bytes < 1000, `${bytes} bytes`)
})

t.test('reads long logs in parts, and older entries when a client needs them', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB, client }] = await openTwoNodes(t)
  const [early, late] = [await openSession(nodeA), await openSession(nodeA)]
  for (const session of [early, late]) await session.join('room')
  const start = early[kInternals].cursor
  const lateStream = await attachMemoryStream(nodeA, late)
  const texts = Array.from({ length: 90 }, (_, n) => String(n).padStart(10_000, 'x'))
  for (const text of texts) {
    await nodeA.channel('room').send(text)
    await early.send(text)
  }
  await waitUntil(() => lateStream.messages().length === 90, 'the messages')
  // The first reader needs nothing of the log, the second one everything.
  const lateAgain = await attachMemoryStream(nodeB, await findSession(nodeB, late), late[kInternals].cursor)
  const sizes = recordReplySizes(client)
  const earlyStream = await attachMemoryStream(nodeB, await findSession(nodeB, early), start)
  await waitUntil(() => earlyStream.messages().length === 180, 'all messages')
  t.strictSame(earlyStream.messages(), texts.flatMap(text => [text, text]))
  t.strictSame(lateAgain.messages(), [])
  t.ok(sizes.length > 4, `${sizes.length} replies`)
  t.ok(Math.max(...sizes) < 900_000, `at most ${Math.max(...sizes)} bytes`)
  // The log of the session itself was read in parts, too, and its beginning is read again for an older cursor.
  const again = await attachMemoryStream(nodeB, await findSession(nodeB, early), start)
  await waitUntil(() => again.messages().length === 180, 'all messages again')
})

t.test('the log of an attached session expires by its age', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await openProxiedNode(t, redis, { resumeTimeout: 400, log: { age: 100 } })
  const session = await openSession(sessions)
  await attachMemoryStream(sessions, session)
  let renewals = 0
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  Object.assign(client, {
    call: async (...command: string[]): Promise<unknown> => {
      if (parseStoreCommands(command).some(({ operation }) => operation === 'renew')) renewals++
      return await call(...command)
    }
  })
  await session.send(1)
  await waitUntil(() => renewals >= 3, 'the renewals')
  t.ok(Number(await redis.sendCommand('PTTL', `{sse}:s:${session.id}:log`)) < 5200, 'the log has its own TTL')
  await waitUntil(() => session[kInternals].state.log?.length === 0, 'the replica to drop the entry')
})

t.test('only the nodes that use a session are notified of its close', needsRedis, async t => {
  const redis = await startRedis(t)
  const nodes = [await openProxiedNode(t, redis), await openProxiedNode(t, redis), await openProxiedNode(t, redis)] as const
  const session = await openSession(nodes[0].sessions)
  const { signal } = await findSession(nodes[1].sessions, session)
  const notified: string[] = []
  await monitorCommands(t, redis, ([name, channel = '', text = '']) => { if (name?.toLowerCase() === 'publish' && text.includes(` closed ${session.id}`)) notified.push(channel) })
  await session.close('bye')
  await waitUntil(() => signal.aborted, 'the signal to abort')
  await waitUntil(() => notified.length === 2, 'the notifications')
  t.equal(new Set(notified).size, 2)
  t.ok(notified.every(channel => channel.startsWith('{sse}:n:')))
})

t.test('few records of sessions in many channels are read at once, because Redis is blocked meanwhile', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB, client }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  await Promise.all(Array.from({ length: 200 }, (_, n) => session.join(`room ${n}`)))
  const counts = countReplies(client, 'channelCount')
  const found = await Promise.all(Array.from({ length: 60 }, () => findSession(nodeB, session)))
  t.equal(found.at(-1)?.channels.length, 200)
  t.equal(counts.reduce((sum, count) => sum + count), 60)
  t.ok(Math.max(...counts) < 40, counts.join())
})
