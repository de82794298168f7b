import t from 'tap'
import { assertErrorResponse } from '../support/error-response.js'
import { openStream, postMessage, type ClientStream } from '../support/http-client.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { serveRecording } from './support/recording-server.js'

t.test('a session expires after resumeTimeout without a stream, and its id becomes unknown', async t => {
  const { url, sessions, closed } = await serveRecording(t, { resumeTimeout: 50 })
  const ended = deferred()
  sessions.addHook('onClose', () => { ended.resolve() })
  const stream = await openStream(t, url)
  const session = await sessions.find(stream.sessionId)
  const { signal } = session ?? {}
  stream.destroy()
  await withTimeout(ended.promise, 'the expiry')
  t.strictSame(closed, [[stream.sessionId, 'expired']])
  t.equal(signal?.aborted, true)
  t.equal(sessions.size, 0)
  assertErrorResponse(t, await postMessage(url, stream.sessionId, { text: 'hi' }), 404, 'FST_SSE_SESSION_UNKNOWN')
  const next = await openStream(t, url, { headers: { 'x-session-id': stream.sessionId } })
  t.match(next.events[0]?.data, { resumed: false, previous: 'unknown' })
  t.not(next.sessionId, stream.sessionId)
})

t.test('a session with a stream, or one that was resumed in time, does not expire', async t => {
  // Long enough for a client to resume even on a slow machine.
  const { url, sessions, closed } = await serveRecording(t, { resumeTimeout: 1000 })
  const disconnect = async ({ sessionId, destroy }: ClientStream): Promise<void> => {
    destroy()
    await waitUntil(async () => (await sessions.find(sessionId))?.connected !== true, 'the disconnect')
  }
  const [connected, resumed] = [await openStream(t, url), await openStream(t, url)]
  await disconnect(resumed)
  const stream = await openStream(t, url, { headers: { 'x-session-id': resumed.sessionId } })
  t.match(stream.events[0]?.data, { resumed: true, sessionId: resumed.sessionId })
  for (let round = 0; round < 3; round++) {
    // A session that disconnected later has expired, so the timeout has passed.
    const expiring = await openStream(t, url)
    await disconnect(expiring)
    await waitUntil(() => closed.length > round, 'the expiry')
    t.strictSame(closed[round], [expiring.sessionId, 'expired'])
  }
  for (const { sessionId } of [connected, stream]) t.equal((await sessions.find(sessionId))?.connected, true)
})

t.test('destroys the stream of a closed session after resumeTimeout if its client does not read to the end', async t => {
  const { url, sessions } = await serveRecording(t, { resumeTimeout: 100, log: { bytes: 64 * 1024 * 1024 } })
  const stalled = await openStream(t, url)
  stalled.body.pause()
  const session = await sessions.find(stalled.sessionId)
  for (let n = 0; n < 400; n++) session?.send('x'.repeat(64 * 1024))
  await session?.close()
  t.equal(sessions.stats().streams, 1)
  await waitUntil(() => sessions.stats().streams === 0, 'the stream to be destroyed')
})
