import t from 'tap'
import type { SseSessionsOptions } from '../../lib/index.js'
import { assertErrorResponse } from '../support/error-response.js'
import { serve } from '../support/server.js'
import { openStream, postMessage, deleteSession } from '../support/http-client.js'
import { waitUntil, withTimeout } from '../support/wait.js'

const [ann, bob] = [{ 'x-user': 'ann' }, { 'x-user': 'bob' }]
const principal: SseSessionsOptions['principal'] = async ({ headers }) => {
  if (headers['x-user'] === 'invalid') throw Object.assign(new Error('unauthorized'), { statusCode: 401, code: 'APP_UNAUTHORIZED' })
  return headers['x-user']?.toString()
}

t.test('a session belongs to the principal that opened it', async t => {
  const { sessions, url } = await serve(t, { principal })
  const stream = await openStream(t, url, { headers: ann })
  const { sessionId } = stream
  t.equal((await sessions.find(sessionId))?.principal, 'ann')
  t.equal((await postMessage(url, sessionId, { text: 'hi' }, { headers: ann })).status, 201)
  for (const headers of [bob, {}] as Array<Record<string, string>>) {
    assertErrorResponse(t, await postMessage(url, sessionId, { text: 'hi' }, { headers }), 404, 'FST_SSE_SESSION_UNKNOWN')
    assertErrorResponse(t, await deleteSession(url, sessionId, headers), 404, 'FST_SSE_SESSION_UNKNOWN')
    for (const resume of [{ 'x-session-id': sessionId }, { 'last-event-id': stream.events[0]?.id ?? '' }] as Array<Record<string, string>>) {
      const other = await openStream(t, url, { headers: { ...headers, ...resume } })
      t.not(other.sessionId, sessionId)
      t.match(other.events[0]?.data, { resumed: false, previous: 'unknown' })
    }
  }
  const { events } = await openStream(t, url, { headers: { ...ann, 'x-session-id': sessionId } })
  t.match(events[0]?.data, { resumed: true, sessionId })
  t.equal((await deleteSession(url, sessionId, ann)).status, 204)
})

t.test('only the principal of a closed session receives its close event', async t => {
  const { sessions, url } = await serve(t, { principal })
  const { sessionId } = await openStream(t, url, { headers: ann })
  await (await sessions.find(sessionId))?.close('done')
  const resume = { 'x-session-id': sessionId }
  const other = await openStream(t, url, { headers: { ...bob, ...resume } })
  t.match(other.events[0]?.data, { resumed: false, previous: 'unknown' })
  const own = await openStream(t, url, { headers: { ...ann, ...resume } })
  await withTimeout(own.ended, 'the end')
  t.match(own.events.at(-1), { event: 'close', data: { reason: 'done' } })
})

t.test('a principal cannot use a session that was opened without a principal', async t => {
  const { url } = await serve(t, { principal })
  const { sessionId } = await openStream(t, url)
  assertErrorResponse(t, await postMessage(url, sessionId, { text: 'hi' }, { headers: ann }), 404, 'FST_SSE_SESSION_UNKNOWN')
  t.equal((await postMessage(url, sessionId, { text: 'hi' })).status, 201)
})

t.test('an error of option principal becomes the response, on each route', async t => {
  const { sessions, url } = await serve(t, { principal })
  const { sessionId } = await openStream(t, url, { headers: ann })
  const invalid = { 'x-user': 'invalid' }
  assertErrorResponse(t, await postMessage(url, sessionId, { text: 'hi' }, { headers: invalid }), 401, 'APP_UNAUTHORIZED')
  assertErrorResponse(t, await deleteSession(url, sessionId, invalid), 401, 'APP_UNAUTHORIZED')
  const { status, text, ended } = await openStream(t, url, { headers: invalid, skipWelcome: true })
  await withTimeout(ended, 'the end')
  assertErrorResponse(t, { status, headers: {}, body: JSON.parse(text()) }, 401, 'APP_UNAUTHORIZED')
  t.equal(sessions.size, 1)
})

t.test('sends only a retry delay while a principal has maxSessionsPerPrincipal open sessions', async t => {
  const { sessions, url } = await serve(t, { principal, maxSessionsPerPrincipal: 2, retry: 5 })
  const streams = [await openStream(t, url, { headers: ann }), await openStream(t, url, { headers: ann })]
  const refusal = await openStream(t, url, { headers: ann, skipWelcome: true })
  await withTimeout(refusal.ended, 'the end')
  t.strictSame([refusal.status, refusal.headers['content-type'], refusal.text()], [200, 'text/event-stream; charset=utf-8', 'retry: 5\n\n'])
  await openStream(t, url, { headers: bob })
  for (let i = 0; i < 3; i++) await openStream(t, url)
  await openStream(t, url, { headers: { ...ann, 'x-session-id': streams[0]?.sessionId ?? '' } })
  t.equal(sessions.size, 6, 'resuming a session does not count, and sessions without a principal are not limited')
  await (await sessions.find(streams[0]?.sessionId ?? ''))?.close()
  await openStream(t, url, { headers: ann })
  const secondRefusal = await openStream(t, url, { headers: ann, skipWelcome: true })
  await withTimeout(secondRefusal.ended, 'the end')
  t.equal(secondRefusal.text(), 'retry: 5\n\n')
  t.equal(sessions.size, 6)
})

t.test('expired sessions do not count towards maxSessionsPerPrincipal', async t => {
  const { sessions, url } = await serve(t, { principal, maxSessionsPerPrincipal: 1, resumeTimeout: 20 })
  for (let i = 0; i < 3; i++) {
    const { destroy } = await openStream(t, url, { headers: ann })
    destroy()
    await waitUntil(() => sessions.size === 0, 'the expiry')
  }
})

t.test('with option principal, a request that fails before the session lookup gets no X-Session-Connected', async t => {
  const { url } = await serve(t, { principal })
  const { sessionId } = await openStream(t, url, { headers: ann })
  t.equal((await postMessage(url, sessionId, '{', { headers: bob })).headers['x-session-connected'], undefined)
  t.equal((await postMessage(url, sessionId, { text: 'hi' }, { headers: ann })).headers['x-session-connected'], 'true')
})

t.test('null and undefined mean no principal, and a principal that is not a string is an error', async t => {
  let result: unknown = null
  const { sessions, url } = await serve(t, { principal: async () => result as string })
  const { sessionId } = await openStream(t, url)
  t.equal((await sessions.find(sessionId))?.principal, undefined)
  t.equal((await postMessage(url, sessionId, { text: 'hi' })).status, 201)
  result = undefined
  t.equal((await postMessage(url, sessionId, { text: 'hi' })).status, 201)
  result = 7
  assertErrorResponse(t, await postMessage(url, sessionId, { text: 'hi' }), 500, 'FST_SSE_OPTION_INVALID')
  t.equal((await openStream(t, url, { skipWelcome: true })).status, 500)
})
