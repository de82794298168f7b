import t from 'tap'
import { handleOf, openSession, stream, type MemoryStream } from '../support/memory-client.js'
import { eachLibrary } from '../support/stores.js'
import { until } from '../support/wait.js'

// Expired or closed logs are not a data loss. The comparison of logs with Redis must not report a gap for them.

const gapsOf = (down: MemoryStream): unknown[] => down.read().filter(({ event }) => event === 'gap')

eachLibrary(t, 'reports no gap after entries of a left channel have expired', async (t, fleet, redis) => {
  const options = { channelLog: { age: 200 } }
  const [nodeA, nodeB] = [await fleet.process(options), await fleet.process(options)]
  const [session, other] = [await openSession(nodeA), await openSession(nodeB)]
  const [down, otherDown] = [await stream(nodeA, session), await stream(nodeB, other)]
  await session.join('room')
  await nodeB.channel('room').send(1)
  await until(() => down.messages().length === 1, 'the message')
  await session.leave('room')
  const since = performance.now()
  await until(() => performance.now() - since > 300, 'the entries to expire')
  // Joining another channel rebuilds the list of logs that the stream reads.
  await (await handleOf(nodeB, session)).join('another')
  await until(() => session.channels.includes('another'), 'the channel')
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await nodeB.broadcast('message', 2)
  await until(() => down.messages().includes(2) && otherDown.messages().includes(2), 'the broadcast')
  t.strictSame([...gapsOf(down), ...gapsOf(otherDown)], [])
})

eachLibrary(t, 'reports no gap to other sessions if a session and its log are deleted', async (t, fleet, redis) => {
  const nodeA = await fleet.process()
  const [session, other] = [await openSession(nodeA), await openSession(nodeA)]
  const [down, otherDown] = [await stream(nodeA, session), await stream(nodeA, other)]
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  await redis.ask('DEL', `{sse}:s:${session.id}`, `{sse}:s:${session.id}:log`)
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(() => down.sink.closed, 'the end of the stream')
  await nodeA.broadcast('message', 2)
  await until(() => otherDown.messages().includes(2), 'the broadcast')
  t.strictSame(gapsOf(otherDown), [])
})

for (const isRecreated of [false, true]) {
  eachLibrary(t, `reports no gap if a left channel with unread entries is deleted${isRecreated ? ' and created again' : ''}`, async (t, fleet, redis) => {
    const nodeA = await fleet.process()
    const nodeB = await fleet.process()
    const [session, other] = [await openSession(nodeA), await openSession(nodeB)]
    const [down, otherDown] = [await stream(nodeA, session), await stream(nodeB, other)]
    await session.join('room')
    await nodeB.channel('room').send(1)
    await until(() => down.messages().length === 1, 'the message')
    await session.leave('room')
    // The same state as after both keys have expired.
    t.equal(await redis.ask('DEL', '{sse}:c:room:', '{sse}:c:room::log'), 2)
    if (isRecreated) {
      await redis.ask('CLIENT', 'PAUSE', '100', 'WRITE')
      await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
      await other.join('room')
      await nodeB.channel('room').send('again')
    } else await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await nodeB.broadcast('message', 2)
    await until(() => down.messages().includes(2) && otherDown.messages().includes(2), 'the broadcast')
    t.strictSame([...gapsOf(down), ...gapsOf(otherDown)], [])
    t.strictSame(otherDown.messages(), isRecreated ? ['again', 2] : [2])
  })
}

eachLibrary(t, 'reports a gap for unread entries of a left channel that has been deleted', async (t, fleet, redis) => {
  const nodeA = await fleet.process()
  const session = await openSession(nodeA)
  await session.join('room')
  await nodeA.channel('room').send(1)
  await session.leave('room')
  t.equal(await redis.ask('DEL', '{sse}:c:room:', '{sse}:c:room::log'), 2)
  const down = await stream(nodeA, session)
  await nodeA.broadcast('message', 2)
  await until(() => down.messages().includes(2), 'the broadcast')
  t.match(down.read(), [{ event: 'gap', data: { reason: 'age' } }, { data: 2 }])
})
