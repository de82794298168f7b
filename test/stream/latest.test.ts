import t from 'tap'
import { kInternals } from '../../lib/sessions/session.js'
import { openStream } from '../support/http-client.js'
import { openRawClient } from '../support/raw-client.js'
import { serve } from '../support/server.js'
import { destroyStream, resumeAfter, serveSession, summarize } from '../support/served-session.js'

const SNAPSHOT = 'x'.repeat(45_000)

t.test('a client that does not read while 100 snapshots of 45 kB are sent receives only the latest of those that its connection has not accepted', async t => {
  const { sessions, port, url } = await serve(t, { heartbeatInterval: false })
  const gaps: unknown[] = []
  sessions.addHook('onGap', (_session, gap) => { gaps.push(gap) }).addHook('onOpen', session => session.join('room'))
  const reader = await openStream(t, url)
  const slow = openRawClient(t, port)
  await slow.waitFor('event: welcome')
  slow.socket.pause()
  // First fills the buffers of the connection.
  const send = async (from: number, count: number): Promise<void> => {
    for (let n = from; n < from + count; n++) {
      await sessions.channel('room').emit('snapshot', { n, SNAPSHOT }, { latest: true })
      await reader.waitFor(({ data }) => (data as { n?: number }).n === n)
    }
  }
  const isBlocked = (): boolean => slow.socket.bytesRead < 200 * SNAPSHOT.length
  await send(1, 400)
  t.ok(isBlocked())
  await send(401, 100)
  slow.socket.resume()
  await slow.waitFor('{"n":500,')
  const received = Array.from(slow.text().matchAll(/\{"n":(\d+),/g), ([, n]) => Number(n))
  t.strictSame(received.filter(n => n > 400), [500])
  t.notMatch(slow.text(), 'event: gap')
  t.strictSame(gaps, [])
})

t.test('a client that returns receives the latest event of each key, every other event, and no gap', async t => {
  const served = await serveSession(t, { log: { entries: 5 } })
  const { session, reportedGaps } = served
  await destroyStream(served)
  for (let n = 1; n <= 20; n++) {
    await session.emit('position', n, { latest: true })
    await session.send(n, { latest: 'messages' })
    await session.emit('title', n, { latest: n < 20 ? 'messages' : 'title' })
    if (n % 10 === 0) await session.send(`all ${n}`)
  }
  const [welcome, ...events] = await resumeAfter(t, served, session[kInternals].cursor)
  t.equal(welcome?.event, 'welcome')
  t.strictSame(events.map(({ event, data }) => [event, data]), [['message', 'all 10'], ['position', 20], ['message', 20], ['title', 20], ['message', 'all 20']])
  t.strictSame(reportedGaps, [])
})

t.test('events of one tick are replaced before they are written', async t => {
  const { session, stream, sessions } = await serveSession(t)
  for (let n = 1; n <= 100; n++) {
    session.emit('own', n, { latest: true })
    sessions.broadcast('all', n, { latest: true })
  }
  await stream.waitFor(({ event }) => event === 'all')
  t.strictSame(stream.events.filter(({ event }) => event === 'own' || event === 'all').map(({ data }) => data), [100, 100])
})

t.test('an event does not replace one that other sessions receive', async t => {
  const served = await serveSession(t)
  const { session, sessions, url } = served
  const other = await openStream(t, url)
  await destroyStream(served)
  await sessions.broadcast('position', 1, { latest: true })
  await sessions.broadcast('position', 2, { latest: true, except: session })
  await sessions.broadcast('position', 3, { latest: true, except: session })
  await other.waitFor(({ data }) => data === 3)
  t.strictSame((await resumeAfter(t, served, session[kInternals].cursor)).slice(1).map(({ data }) => data), [1])
})

t.test('the order of the sessions that an event excludes has no effect', async t => {
  const served = await serveSession(t)
  const { session, sessions, url } = served
  const excluded = [await openStream(t, url), await openStream(t, url)].map(({ sessionId: id }) => ({ id }))
  await destroyStream(served)
  await sessions.broadcast('position', 1, { latest: true, except: excluded })
  await sessions.broadcast('position', 2, { latest: true, except: [...excluded].reverse() })
  t.strictSame((await resumeAfter(t, served, session[kInternals].cursor)).slice(1).map(({ data }) => data), [2])
})

t.test('the history of a channel has only the latest', async t => {
  const { session, sessions } = await serveSession(t)
  const room = sessions.channel('room', { keep: 60_000 })
  for (let n = 1; n <= 3; n++) {
    await room.send(n)
    await room.emit('state', n, { latest: true })
  }
  t.strictSame((await session.join('room', { history: Infinity })).map(({ data }) => data), [1, 2, 3, 3])
})

t.test('of(principal) sends with the option', async t => {
  const { stream, sessions } = await serveSession(t, { principal: () => 'ann' })
  for (let n = 1; n <= 3; n++) sessions.of('ann').send(n, { latest: true })
  await stream.waitFor(({ data }) => data === 3)
  t.strictSame(summarize(stream.events).filter(item => typeof item === 'number'), [3])
})

t.test('invalid options are refused', async t => {
  const { session, sessions } = await serveSession(t)
  const code = 'FST_SSE_OPTION_INVALID'
  const calls: Array<(options: object) => Promise<void>> = [
    options => session.send(1, options), options => session.emit('a', 1, options), options => sessions.channel('room').emit('a', 1, options), options => sessions.channel('room').send(1, options),
    options => sessions.broadcast('a', 1, options), options => sessions.of('ann').emit('a', 1, options), options => sessions.of('ann').send(1, options)
  ]
  for (const call of calls) {
    for (const latest of [null, 7, '', 'x'.repeat(257), 'é'.repeat(129), '\ud800', {}]) await t.rejects(call({ latest }), { code, message: /"latest"/ })
    await t.rejects(call({ lates: true }), { code, message: /"lates"/ })
    for (const latest of ['x'.repeat(256), 'é'.repeat(128), false, undefined]) await call({ latest })
  }
  await t.rejects(session.emit('x'.repeat(257), 1, { latest: true }), { code })
  await t.rejects(session.emit('a', 1, { latest: true, acknowledged: true }), { code, message: /"acknowledged"/ })
  await t.rejects(session.emit('a', 1, { except: session } as object), { code, message: /"except" of emit/ })
})
