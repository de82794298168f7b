import t, { type Test } from 'tap'
import type { Session } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { eventSources, type EventSourceLike } from '../support/event-sources.js'
import { startFaultProxy, type Fault, type FaultProxy, type FaultPlan } from '../support/fault-proxy.js'
import { matchList } from '../support/match-list.js'
import { serve, type TestServer } from '../support/server.js'
import { openStream } from '../support/http-client.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { follow, type Follower } from './support/follower.js'

const largeLog = { entries: 100_000, bytes: 2 ** 27 }
const faults: Fault[] = ['cut', 'reset', 'half-open']

interface FollowedSession extends TestServer {
  readonly proxy: FaultProxy
  readonly follower: Follower
  readonly session: Session
  /** Sends so many numbered messages at once. */
  readonly send: (count: number, padding?: string) => void
}

/** Serves the plugin and opens a session over a fault proxy. */
async function followSession (t: Test, open: (t: Test, url: string) => EventSourceLike, plan?: (connection: number) => FaultPlan | undefined): Promise<FollowedSession> {
  const served = await serve(t, { retry: 1, log: largeLog })
  const proxy = await startFaultProxy(t, served.port, plan)
  const follower = follow(open(t, `${proxy.url}/downward`))
  const session = await sessionOf(served, await follower.welcomed)
  let n = 0
  const send = (count: number, padding = ''): void => {
    for (let i = 0; i < count; i++) session.send({ n: ++n, padding })
  }
  return { ...served, proxy, follower, session, send }
}

async function sessionOf ({ sessions }: TestServer, id: string): Promise<Session> {
  const session = await sessions.find(id)
  if (session === undefined) throw new Error('there is no such session')
  return session
}

t.test('loses nothing on a connection that ends at any byte of the head, the welcome or the first messages', async t => {
  const served = await serve(t, { retry: 1 })
  // Sent before the client has its session id. A client without the welcome opens another session, which sends them again.
  served.sessions.addHook('onOpen', session => { for (let n = 1; n <= 5; n++) session.send({ n }) })
  const attempts = eventSources.flatMap(([name, open]) => Array.from({ length: 30 }, async (_, index) => {
    const proxy = await startFaultProxy(t, served.port, connection => connection > 0
      ? undefined
      : { fault: faults[index % 3] ?? 'cut', afterBytes: index * 20 })
    const follower = follow(open(t, `${proxy.url}/downward`))
    await follower.reached(5)
    t.ok(proxy.connections[0]?.faulted, `${name}, after ${index * 20} bytes`)
    return follower
  }))
  const welcomes = (await Promise.all(attempts)).map(follower => {
    t.strictSame(follower.problems, [])
    t.strictSame(follower.numbers, [1, 2, 3, 4, 5])
    t.equal(new Set(follower.welcomes.map(({ sessionId }) => sessionId)).size, 1)
    return follower.welcomes.map(({ resumed }) => resumed).join()
  })
  t.strictSame([...new Set(welcomes)].sort(), ['false', 'false,true'], 'some clients had received the welcome, some had not')
})

for (const [name, open] of eventSources) {
  t.test(`${name} loses nothing on a connection that ends between the welcome and the first message`, async t => {
    for (const fault of faults) {
      const { proxy, follower, send } = await followSession(t, open)
      proxy.breakConnection(fault)
      send(3)
      await follower.reached(3)
      t.strictSame([follower.problems, follower.numbers], [[], [1, 2, 3]], fault)
      matchList(t, follower.welcomes, [{ resumed: false }, { resumed: true }])
    }
  })

  t.test(`${name} resumes after several faults in the middle of a replay`, async t => {
    // The replay of 10,000 messages is more than 500 kB. The third connection ends in its head.
    const plans: Array<FaultPlan | undefined> = [undefined, { fault: 'cut', afterBytes: 200_000 }, { fault: 'reset', afterBytes: 90 }, { fault: 'half-open', afterBytes: 150_000 }]
    const { proxy, follower, session, send } = await followSession(t, open, connection => plans[connection])
    send(1)
    await follower.reached(1)
    proxy.breakConnection('cut')
    send(10_000)
    await follower.reached(10_001)
    t.strictSame(follower.problems, [])
    t.equal(follower.numbers.length, 10_001)
    t.ok(follower.welcomes.every(({ sessionId }) => sessionId === session.id))
    t.equal(follower.welcomes.length, 4)
    t.strictSame(proxy.connections.map(({ faulted }) => faulted), [true, true, true, true, false])
  })

  t.test(`${name} loses nothing on a connection that ends while the server waits for the slow client`, async t => {
    for (const fault of faults) {
      const { proxy, follower, session, send } = await followSession(t, open)
      const [connection] = proxy.connections
      connection?.server.pause()
      send(12_000, 'x'.repeat(1000))
      // 12 MB exceed the socket buffers, so the stream has to wait.
      await waitUntil(() => session[kInternals].cursor > 0, 'the first write')
      t.ok(session[kInternals].cursor < 12_000)
      proxy.breakConnection(fault)
      await follower.reached(12_000)
      t.strictSame(follower.problems, [], fault)
      t.equal(follower.numbers.length, 12_000)
      matchList(t, follower.welcomes, [{ resumed: false }, { resumed: true }])
    }
  })
}

t.test('resumes after every id that a client received, with that id on the welcome', async t => {
  const served = await serve(t)
  const stream = await openStream(t, served.url)
  const session = await sessionOf(served, stream.sessionId)
  await session.join('room')
  await session.send(1)
  await served.sessions.channel('room').send(2)
  await served.sessions.broadcast('news', 3)
  await served.sessions.channel('room').send('of its own', { except: session })
  await session.send(4)
  await stream.waitFor(({ data }) => data === 4)
  const received = [...stream.events]
  for (const [index, { id = '' }] of received.entries()) {
    const resumed = await openStream(t, served.url, { headers: { 'last-event-id': id } })
    const [welcome] = resumed.events
    t.match(welcome, { event: 'welcome', id, data: { sessionId: session.id, resumed: true } })
    if (index < 4) await resumed.waitFor(({ data }) => data === 4)
    await session.emit('mark', index)
    await resumed.waitFor(({ event }) => event === 'mark' && index === resumed.events.at(-1)?.data)
    const missed = resumed.events.slice(1).filter(({ event }) => event !== 'mark')
    t.strictSame(missed, received.slice(index + 1))
  }
})

t.test('resumes a client that sends only X-Session-ID after what was written to it', async t => {
  const served = await serve(t)
  const first = await openStream(t, served.url)
  const session = await sessionOf(served, first.sessionId)
  const lost = deferred()
  served.sessions.addHook('onDisconnect', () => { lost.resolve() })
  await session.send(1)
  const { id = '' } = await first.waitFor(({ data }) => data === 1)
  first.destroy()
  await withTimeout(lost.promise, 'the loss of the stream')
  await session.send(2)
  await session.send(3)
  const second = await openStream(t, served.url, { headers: { 'x-session-id': session.id } })
  await second.waitFor(({ data }) => data === 3)
  t.match(second.events[0], { id, data: { sessionId: session.id, resumed: true } })
  t.strictSame(second.events.slice(1).map(({ data }) => data), [2, 3])

  const third = await openStream(t, served.url, { headers: { 'x-session-id': session.id, 'last-event-id': id } })
  await third.waitFor(({ data }) => data === 3)
  t.strictSame(third.events.slice(1).map(({ data }) => data), [2, 3], 'it resumes after the Last-Event-ID if it sends both headers')

  const other = await openStream(t, served.url)
  const fourth = await openStream(t, served.url, { headers: { 'x-session-id': other.sessionId, 'last-event-id': id } })
  t.equal(fourth.sessionId, session.id, 'the session of the Last-Event-ID takes precedence')
  t.equal(fourth.events[0]?.id, id)
})

t.test('a position from before the session was opened replays nothing older than the session', async t => {
  const served = await serve(t)
  await openStream(t, served.url)
  await served.sessions.broadcast('news', 'before')
  const { sessionId } = await openStream(t, served.url)
  await served.sessions.broadcast('news', 'since')
  const resumed = await openStream(t, served.url, { headers: { 'last-event-id': `${sessionId}.0` } })
  await resumed.waitFor(({ data }) => data === 'since')
  t.strictSame(resumed.events.slice(1).map(({ data }) => data), ['since'])
})

t.test('a client that disconnects during its onResume hook can resume again', async t => {
  const served = await serve(t)
  const first = await openStream(t, served.url)
  const session = await sessionOf(served, first.sessionId)
  const hookStarted = deferred()
  const gate = deferred()
  served.sessions.addHook('onResume', async () => {
    hookStarted.resolve()
    await gate.promise
  })
  const headers = { 'last-event-id': first.events[0]?.id ?? '' }
  const proxy = await startFaultProxy(t, served.port)
  const attempt = openStream(t, proxy.url, { headers }).catch((error: unknown) => error)
  await withTimeout(hookStarted.promise, 'the hook')
  const disconnected = new Promise(resolve => { proxy.connections[0]?.server.once('close', resolve) })
  proxy.breakConnection('reset')
  await withTimeout(disconnected, 'the end of the connection')
  t.type(await attempt, Error)
  gate.resolve()
  await session.send(1)
  const second = await openStream(t, served.url, { headers })
  t.equal((await second.waitFor(({ event }) => event === 'message')).data, 1)
  t.equal(second.sessionId, session.id)
})
