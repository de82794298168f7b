import t, { type Test } from 'tap'
import type { Session, SseSessionsOptions } from '../../lib/index.js'
import type { Log } from '../../lib/log/log.js'
import { kInternals } from '../../lib/sessions/session.js'
import { skewClock } from '../support/clock.js'
import { waitUntilCollected } from '../support/gc.js'
import { summarize, findGap, destroyStream, serveSession, positionOf, resumeAfter, type ServedSession } from '../support/served-session.js'
import { openStream } from '../support/http-client.js'
import { waitUntil } from '../support/wait.js'

interface ChannelSetup extends ServedSession {
  /** A member of `room` and `hall` for the whole test. */
  readonly other: Session
  readonly send: (channel: string, ...data: unknown[]) => Promise<void>
}

/** Serves a session, and another one that stays in both channels, so that the channels keep their logs. */
async function setUpChannels (t: Test, options: SseSessionsOptions = {}): Promise<ChannelSetup> {
  const served = await serveSession(t, options)
  const other = await served.sessions.find((await openStream(t, served.url)).sessionId)
  if (other === undefined) throw new Error('no session')
  await other.join('room')
  await other.join('hall')
  const send = async (channel: string, ...data: unknown[]): Promise<void> => {
    for (const value of data) await served.sessions.channel(channel).send(value)
  }
  return { ...served, other, send }
}

t.test('a member receives what is sent while it is in the channel, connected or not, and nothing else', async t => {
  const served = await setUpChannels(t)
  const { session, send } = served
  await destroyStream(served)
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
  t.equal(await served.sessions.channel('room').count(), 2)
  t.equal(await served.sessions.channel('nobody').count(), 0)
  t.strictSame(summarize(await resumeAfter(t, served, 0)), ['welcome', 'in', 'in again'])
  await session.leave('room')
  await send('room', 'after')
  t.strictSame(summarize(await resumeAfter(t, served, 2)), ['welcome', 'in again'])
  t.strictSame(served.reportedGaps, [])
})

t.test('delivers earlier events of a channel that was deleted and created again with the same name', async t => {
  const served = await serveSession(t)
  const { session, sessions } = served
  await destroyStream(served)
  await session.join('room')
  await sessions.channel('room').send('old')
  await session.leave('room')
  t.equal(sessions.stats().channels, 0)
  await sessions.channel('room').send('to nobody')
  await session.join('room')
  await sessions.channel('room').send('new')
  t.strictSame(summarize(await resumeAfter(t, served, 0)), ['welcome', 'old', 'new'])
})

t.test('reports a loss in a channel only to sessions that were members at that time', async t => {
  const served = await setUpChannels(t, { channelLog: { entries: 1 } })
  const { session, other, send } = served
  await destroyStream(served)
  await send('room', 1, 2)
  await session.join('room')
  await send('room', 3, 4)
  await session.leave('room')
  await send('room', 5, 6)
  const events = await resumeAfter(t, served, 0)
  t.strictSame(summarize(events), ['welcome', 'gap'])
  t.strictSame(findGap(events), { after: 0, resumedAt: 4, reason: 'count' }, 'the gap ends where the session left')
  t.strictSame(summarize(await resumeAfter(t, served, 4)), ['welcome'])
  t.strictSame(summarize(await resumeAfter(t, served, 5)), ['welcome'])
  const others = await resumeAfter(t, { ...served, session: other }, 0)
  t.strictSame(summarize(others), ['welcome', 'gap', 6])
  t.strictSame(findGap(others), { after: 0, resumedAt: 5, reason: 'count' })
})

t.test('drops a channel that was left when its entries are trimmed, and still reports them as a gap', async t => {
  const served = await setUpChannels(t, { channelLog: { entries: 2 } })
  const { session, send } = served
  await destroyStream(served)
  await session.join('room')
  await session.join('hall')
  await send('room', 1, 2)
  await session.send(3)
  await session.leave('room')
  await send('room', 4, 5)
  await send('hall', 6)
  // Leaving any channel checks the channels that the session has left before.
  await session.leave('hall')
  await session.send(7)
  const events = await resumeAfter(t, served, 0)
  t.strictSame(summarize(events), ['welcome', 'gap', 3, 6, 7])
  t.strictSame(findGap(events), { after: 0, resumedAt: 2, reason: 'count' })
  t.strictSame(events.map(positionOf), [0, 2, 3, 6, 7])
  t.strictSame(summarize(await resumeAfter(t, served, 2)), ['welcome', 3, 6, 7])
})

t.test('reports a gap for a channel whose entries for the session were all trimmed before it left', async t => {
  const served = await setUpChannels(t, { channelLog: { entries: 1, age: 1000 } })
  const skew = skewClock(t)
  const { session, send } = served
  await destroyStream(served)
  await session.join('room')
  await send('room', 1, 2)
  skew(1001)
  await session.leave('room')
  const events = await resumeAfter(t, served, 0)
  t.strictSame(summarize(events), ['welcome', 'gap'])
  t.strictSame(findGap(events), { after: 0, resumedAt: 2, reason: 'age' })
})

t.test('a session does not receive an event that excludes it with "except", live or in a replay', async t => {
  const served = await setUpChannels(t)
  const { session, other, send, sessions } = served
  await session.join('room')
  await sessions.channel('room').send('own', { except: session })
  await sessions.broadcast('message', 'own, to all', { except: session })
  await send('room', 'others')
  await served.stream.waitFor(({ data }) => data === 'others')
  await destroyStream(served)
  await sessions.channel('room').send('own', { except: session })
  await sessions.channel('room').send('from the other', { except: other })
  t.strictSame(served.stream.events.filter(({ event }) => event === 'message').map(({ data }) => data), ['others'])
  t.strictSame(summarize(await resumeAfter(t, served, 0)), ['welcome', 'others', 'from the other'])
  t.strictSame(summarize(await resumeAfter(t, { ...served, session: other }, 0)), ['welcome', 'own', 'own, to all', 'others', 'own'])
})

for (const [when, trigger] of [
  ['channel is left', async (_t: Test, { session }: ServedSession) => {
    await session.join('hall')
    await session.leave('hall')
  }],
  ['stream is attached', (t: Test, served: ServedSession) => resumeAfter(t, served, 1)]
] as const) {
  t.test(`expires the entries of a channel without members, and frees its log when the next ${when}`, async t => {
    const served = await serveSession(t, { channelLog: { age: 20 } })
    const { session, sessions } = served
    await session.join('room')
    const log = channelLogOf(session)
    await sessions.channel('room').send(1)
    await served.stream.waitFor(({ data }) => data === 1)
    await session.leave('room')
    await waitUntil(() => log.deref()?.length === 0, 'the entry to expire')
    await trigger(t, served)
    await waitUntilCollected(log, 'the log of the channel')
    t.strictSame(findGap(await resumeAfter(t, served, 0)), { after: 0, resumedAt: 1, reason: 'age' })
  })
}

/** A weak reference to the log of the one channel that a session reads. */
function channelLogOf (session: Session): WeakRef<Log> {
  const { log } = session[kInternals].state.ranges[1] ?? {}
  if (log === undefined) throw new Error('no log')
  return new WeakRef(log)
}
