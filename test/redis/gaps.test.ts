import t from 'tap'
import { handleOf, openSession, stream, type MemoryStream } from '../support/memory-client.js'
import { eachLibrary } from '../support/stores.js'
import { until } from '../support/wait.js'

// What is over, or too old, is no loss of the store's: nobody is told of one when logs are compared with Redis.

const gaps = (down: MemoryStream): unknown[] => down.read().filter(({ event }) => event === 'gap')

eachLibrary(t, 'no gap is told after something was left of a channel that has grown too old', async (t, fleet, redis) => {
  const options = { channelLog: { age: 200 } }
  const [one, two] = [await fleet.process(options), await fleet.process(options)]
  const [session, other] = [await openSession(one), await openSession(two)]
  const [down, aside] = [await stream(one, session), await stream(two, other)]
  await session.join('room')
  await two.channel('room').send(1)
  await until(() => down.messages().length === 1, 'the message')
  await session.leave('room')
  const begun = performance.now()
  await until(() => performance.now() - begun > 300, 'it to be too old')
  // Its sources are looked at anew.
  await (await handleOf(two, session)).join('another')
  await until(() => session.channels.includes('another'), 'the channel')
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await two.broadcast('message', 2)
  await until(() => down.messages().includes(2) && aside.messages().includes(2), 'the broadcast')
  t.strictSame([...gaps(down), ...gaps(aside)], [])
})

eachLibrary(t, 'no gap is told to others when a session is gone with its log', async (t, fleet, redis) => {
  const one = await fleet.process()
  const [session, other] = [await openSession(one), await openSession(one)]
  const [down, aside] = [await stream(one, session), await stream(one, other)]
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
  await redis.ask('DEL', `{sse}:s:${session.id}`, `{sse}:s:${session.id}:log`)
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until(() => down.sink.closed, 'the end of its stream')
  await one.broadcast('message', 2)
  await until(() => aside.messages().includes(2), 'the broadcast')
  t.strictSame(gaps(aside), [])
})

for (const again of [false, true]) {
  eachLibrary(t, `no gap is told when a channel is gone${again ? ', and there again,' : ''} of which something is left`, async (t, fleet, redis) => {
    const one = await fleet.process()
    const two = await fleet.process()
    const [session, other] = [await openSession(one), await openSession(two)]
    const [down, aside] = [await stream(one, session), await stream(two, other)]
    await session.join('room')
    await two.channel('room').send(1)
    await until(() => down.messages().length === 1, 'the message')
    await session.leave('room')
    // As when both expire.
    t.equal(await redis.ask('DEL', '{sse}:c:room:', '{sse}:c:room::log'), 2)
    if (again) {
      await redis.ask('CLIENT', 'PAUSE', '100', 'WRITE')
      await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
      await other.join('room')
      await two.channel('room').send('again')
    } else await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await two.broadcast('message', 2)
    await until(() => down.messages().includes(2) && aside.messages().includes(2), 'the broadcast')
    t.strictSame([...gaps(down), ...gaps(aside)], [])
    t.strictSame(aside.messages(), again ? ['again', 2] : [2])
  })
}

eachLibrary(t, 'a gap is told of what was left unread in a channel that is gone', async (t, fleet, redis) => {
  const one = await fleet.process()
  const session = await openSession(one)
  await session.join('room')
  await one.channel('room').send(1)
  await session.leave('room')
  t.equal(await redis.ask('DEL', '{sse}:c:room:', '{sse}:c:room::log'), 2)
  const down = await stream(one, session)
  await one.broadcast('message', 2)
  await until(() => down.messages().includes(2), 'the broadcast')
  t.match(down.read(), [{ event: 'gap', data: { reason: 'age' } }, { data: 2 }])
})
