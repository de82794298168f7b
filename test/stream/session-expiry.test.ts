import t from 'tap'
import { refused } from '../support/error-response.js'
import { openStream, post, type Stream } from '../support/stream.js'
import { serveRecording } from './support/recording-server.js'
import { signal, until, within } from '../support/wait.js'

t.test('a session expires after resumeTimeout without a stream, and its id becomes unknown', async t => {
  const { url, sessions, closed } = await serveRecording(t, { resumeTimeout: 50 })
  const ended = signal()
  sessions.addHook('onClose', () => { ended.resolve() })
  const stream = await openStream(t, url)
  const session = await sessions.find(stream.sessionId)
  const { signal: aborted } = session ?? {}
  stream.destroy()
  await within(ended.promise, 'the expiry')
  t.strictSame(closed, [[stream.sessionId, 'expired']])
  t.equal(aborted?.aborted, true)
  t.equal(sessions.size, 0)
  refused(t, await post(url, stream.sessionId, { text: 'hi' }), 404, 'FST_SSE_SESSION_UNKNOWN')
  const next = await openStream(t, url, { headers: { 'x-session-id': stream.sessionId } })
  t.match(next.events[0]?.data, { resumed: false, previous: 'unknown' })
  t.not(next.sessionId, stream.sessionId)
})

t.test('a session with a stream, or one that was resumed in time, does not expire', async t => {
  // Long enough for a client to resume even on a slow machine.
  const { url, sessions, closed } = await serveRecording(t, { resumeTimeout: 1000 })
  const disconnect = async ({ sessionId, destroy }: Stream): Promise<void> => {
    destroy()
    await until(async () => (await sessions.find(sessionId))?.connected !== true, 'the disconnect')
  }
  const [connected, resumed] = [await openStream(t, url), await openStream(t, url)]
  await disconnect(resumed)
  const stream = await openStream(t, url, { headers: { 'x-session-id': resumed.sessionId } })
  t.match(stream.events[0]?.data, { resumed: true, sessionId: resumed.sessionId })
  for (let round = 0; round < 3; round++) {
    // A session that disconnected later has expired, so the timeout has passed.
    const expiring = await openStream(t, url)
    await disconnect(expiring)
    await until(() => closed.length > round, 'the expiry')
    t.strictSame(closed[round], [expiring.sessionId, 'expired'])
  }
  for (const { sessionId } of [connected, stream]) t.equal((await sessions.find(sessionId))?.connected, true)
})

t.test('destroys the stream of a client that does not read the end of its session after resumeTimeout', async t => {
  const { url, sessions } = await serveRecording(t, { resumeTimeout: 100, log: { bytes: 64 * 1024 * 1024 } })
  const stalled = await openStream(t, url)
  stalled.body.pause()
  const session = await sessions.find(stalled.sessionId)
  for (let n = 0; n < 400; n++) session?.send('x'.repeat(64 * 1024))
  await session?.close()
  t.equal(sessions.stats().streams, 1)
  await until(() => sessions.stats().streams === 0, 'the stream to be destroyed')
})
