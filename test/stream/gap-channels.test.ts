import t, { type Test } from 'tap'
import type { Session, SseSessionsOptions } from '../../lib/index.js'
import type { Log } from '../../lib/log/log.js'
import { kStream } from '../../lib/sessions/session.js'
import { skewClock } from '../support/clock.js'
import { collected } from '../support/gc.js'
import { brief, gapOf, loseStream, opened, positionOf, resume, type Opened } from '../support/resumption.js'
import { openStream } from '../support/stream.js'
import { until } from '../support/wait.js'

interface Accompanied extends Opened {
  /** A member of `room` and `hall` that stays, so that the channels do. */
  readonly other: Session
  readonly send: (channel: string, ...data: unknown[]) => Promise<void>
}

async function accompanied (t: Test, options: SseSessionsOptions = {}): Promise<Accompanied> {
  const all = await opened(t, options)
  const other = await all.sessions.find((await openStream(t, all.url)).sessionId)
  if (other === undefined) throw new Error('no session')
  await other.join('room')
  await other.join('hall')
  const send = async (channel: string, ...data: unknown[]): Promise<void> => {
    for (const one of data) await all.sessions.channel(channel).send(one)
  }
  return { ...all, other, send }
}

t.test('a member gets what is sent while it is in, be that while it is connected or not, and nothing else', async t => {
  const all = await accompanied(t)
  const { session, send } = all
  await loseStream(all)
  await send('room', 'before')
  await session.join('room')
  await session.join('room')
  await send('room', 'in')
  await session.leave('room')
  await session.leave('room')
  await send('room', 'between')
  await session.join('room')
  await send('room', 'in again')
  t.strictSame(session.channels, ['room'])
  t.equal(await all.sessions.channel('room').count(), 2)
  t.equal(await all.sessions.channel('nobody').count(), 0)
  t.strictSame(brief(await resume(t, all, 0)), ['welcome', 'in', 'in again'])
  await session.leave('room')
  await send('room', 'after')
  t.strictSame(brief(await resume(t, all, 2)), ['welcome', 'in again'])
  t.strictSame(all.told, [])
})

t.test('what a channel brought is still had when its last member has left and others have the name anew', async t => {
  const all = await opened(t)
  const { session, sessions } = all
  await loseStream(all)
  await session.join('room')
  await sessions.channel('room').send('old')
  await session.leave('room')
  t.equal(sessions.stats().channels, 0)
  await sessions.channel('room').send('to nobody')
  await session.join('room')
  await sessions.channel('room').send('new')
  t.strictSame(brief(await resume(t, all, 0)), ['welcome', 'old', 'new'])
})

t.test('a loss in a channel is told to those alone who were in it then', async t => {
  const all = await accompanied(t, { channelLog: { entries: 1 } })
  const { session, other, send } = all
  await loseStream(all)
  await send('room', 1, 2)
  await session.join('room')
  await send('room', 3, 4)
  await session.leave('room')
  await send('room', 5, 6)
  const events = await resume(t, all, 0)
  t.strictSame(brief(events), ['welcome', 'gap'])
  t.strictSame(gapOf(events), { after: 0, resumedAt: 4, reason: 'count' }, 'up to when it left')
  t.strictSame(brief(await resume(t, all, 4)), ['welcome'])
  t.strictSame(brief(await resume(t, all, 5)), ['welcome'])
  const others = await resume(t, { ...all, session: other }, 0)
  t.strictSame(brief(others), ['welcome', 'gap', 6])
  t.strictSame(gapOf(others), { after: 0, resumedAt: 5, reason: 'count' })
})

t.test('channels that were left are forgotten when their entries are trimmed, but not that there was something', async t => {
  const all = await accompanied(t, { channelLog: { entries: 2 } })
  const { session, send } = all
  await loseStream(all)
  await session.join('room')
  await session.join('hall')
  await send('room', 1, 2)
  await session.send(3)
  await session.leave('room')
  await send('room', 4, 5)
  await send('hall', 6)
  // Leaving any channel is when those that were left before are looked over.
  await session.leave('hall')
  await session.send(7)
  const events = await resume(t, all, 0)
  t.strictSame(brief(events), ['welcome', 'gap', 3, 6, 7])
  t.strictSame(gapOf(events), { after: 0, resumedAt: 2, reason: 'count' })
  t.strictSame(events.map(positionOf), [0, 2, 3, 6, 7])
  t.strictSame(brief(await resume(t, all, 2)), ['welcome', 3, 6, 7])
})

t.test('a channel whose entries for the session were all lost before it left is told as lost', async t => {
  const all = await accompanied(t, { channelLog: { entries: 1, age: 1000 } })
  const skew = skewClock(t)
  const { session, send } = all
  await loseStream(all)
  await session.join('room')
  await send('room', 1, 2)
  skew(1001)
  await session.leave('room')
  const events = await resume(t, all, 0)
  t.strictSame(brief(events), ['welcome', 'gap'])
  t.strictSame(gapOf(events), { after: 0, resumedAt: 2, reason: 'age' })
})

t.test('messages that except the session are not for it, live or later', async t => {
  const all = await accompanied(t)
  const { session, other, send, sessions } = all
  await session.join('room')
  await sessions.channel('room').send('own', { except: session })
  await sessions.broadcast('message', 'own, to all', { except: session })
  await send('room', 'others')
  await all.stream.waitFor(({ data }) => data === 'others')
  await loseStream(all)
  await sessions.channel('room').send('own', { except: session })
  await sessions.channel('room').send('from the other', { except: other })
  t.strictSame(all.stream.events.filter(({ event }) => event === 'message').map(({ data }) => data), ['others'])
  t.strictSame(brief(await resume(t, all, 0)), ['welcome', 'others', 'from the other'])
  t.strictSame(brief(await resume(t, { ...all, session: other }, 0)), ['welcome', 'own', 'own, to all', 'others', 'own'])
})

for (const [when, look] of [
  ['channel is left', async (_t: Test, { session }: Opened) => {
    await session.join('hall')
    await session.leave('hall')
  }],
  ['stream comes', (t: Test, all: Opened) => resume(t, all, 1)]
] as const) {
  t.test(`what is in a channel that all have left goes when it is too old, and its log when the next ${when}, while the session lives`, async t => {
    const all = await opened(t, { channelLog: { age: 20 } })
    const { session, sessions } = all
    await session.join('room')
    const log = roomOf(session)
    await sessions.channel('room').send(1)
    await all.stream.waitFor(({ data }) => data === 1)
    await session.leave('room')
    await until(() => log.deref()?.length === 0, 'the entry to be too old')
    await look(t, all)
    await collected(log, 'the log of the room')
    t.strictSame(gapOf(await resume(t, all, 0)), { after: 0, resumedAt: 1, reason: 'age' })
  })
}

/** The log that a session reads besides that of broadcasts: held by nothing here. */
function roomOf (session: Session): WeakRef<Log> {
  const { log } = session[kStream].state.ranges[1] ?? {}
  if (log === undefined) throw new Error('no log')
  return new WeakRef(log)
}
