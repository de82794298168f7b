import t from 'tap'
import type { SseSessionsOptions } from '../../lib/index.js'
import { refused } from '../support/error-response.js'
import { serve } from '../support/server.js'
import { openStream, post, remove } from '../support/stream.js'
import { until, within } from '../support/wait.js'

const [mine, yours] = [{ 'x-user': 'me' }, { 'x-user': 'you' }]
const principal: SseSessionsOptions['principal'] = async ({ headers }) => {
  if (headers['x-user'] === 'nobody') throw Object.assign(new Error('who?'), { statusCode: 401, code: 'APP_WHO' })
  return headers['x-user']?.toString()
}

t.test('a session belongs to the principal that opened it', async t => {
  const { sessions, url } = await serve(t, { principal })
  const stream = await openStream(t, url, { headers: mine })
  const { sessionId } = stream
  t.equal((await sessions.find(sessionId))?.principal, 'me')
  t.equal((await post(url, sessionId, { text: 'hi' }, { headers: mine })).status, 201)
  for (const headers of [yours, {}] as Array<Record<string, string>>) {
    refused(t, await post(url, sessionId, { text: 'hi' }, { headers }), 404, 'FST_SSE_SESSION_UNKNOWN')
    refused(t, await remove(url, sessionId, headers), 404, 'FST_SSE_SESSION_UNKNOWN')
    for (const returning of [{ 'x-session-id': sessionId }, { 'last-event-id': stream.events[0]?.id ?? '' }] as Array<Record<string, string>>) {
      const other = await openStream(t, url, { headers: { ...headers, ...returning } })
      t.not(other.sessionId, sessionId)
      t.match(other.events[0]?.data, { resumed: false, previous: 'unknown' })
    }
  }
  const { events } = await openStream(t, url, { headers: { ...mine, 'x-session-id': sessionId } })
  t.match(events[0]?.data, { resumed: true, sessionId })
  t.equal((await remove(url, sessionId, mine)).status, 204)
})

t.test('an ended session is told to its own principal alone', async t => {
  const { sessions, url } = await serve(t, { principal })
  const { sessionId } = await openStream(t, url, { headers: mine })
  await (await sessions.find(sessionId))?.close('bye')
  const returning = { 'x-session-id': sessionId }
  const other = await openStream(t, url, { headers: { ...yours, ...returning } })
  t.match(other.events[0]?.data, { resumed: false, previous: 'unknown' })
  const own = await openStream(t, url, { headers: { ...mine, ...returning } })
  await within(own.ended, 'the end')
  t.match(own.events.at(-1), { event: 'close', data: { reason: 'bye' } })
})

t.test('a session that was opened without a principal is not found by one', async t => {
  const { url } = await serve(t, { principal })
  const { sessionId } = await openStream(t, url)
  refused(t, await post(url, sessionId, { text: 'hi' }, { headers: mine }), 404, 'FST_SSE_SESSION_UNKNOWN')
  t.equal((await post(url, sessionId, { text: 'hi' })).status, 201)
})

t.test('what the principal option throws is the answer, on each route', async t => {
  const { sessions, url } = await serve(t, { principal })
  const { sessionId } = await openStream(t, url, { headers: mine })
  const nobody = { 'x-user': 'nobody' }
  refused(t, await post(url, sessionId, { text: 'hi' }, { headers: nobody }), 401, 'APP_WHO')
  refused(t, await remove(url, sessionId, nobody), 401, 'APP_WHO')
  const { status, raw, ended } = await openStream(t, url, { headers: nobody, raw: true })
  await within(ended, 'the end')
  refused(t, { status, headers: {}, body: JSON.parse(raw()) }, 401, 'APP_WHO')
  t.equal(sessions.size, 1)
})

t.test('a principal has only so many sessions; the next has to come later, until one ends', async t => {
  const { sessions, url } = await serve(t, { principal, maxSessionsPerPrincipal: 2, retry: 5 })
  const streams = [await openStream(t, url, { headers: mine }), await openStream(t, url, { headers: mine })]
  const refusal = await openStream(t, url, { headers: mine, raw: true })
  await within(refusal.ended, 'the end')
  t.strictSame([refusal.status, refusal.headers['content-type'], refusal.raw()], [200, 'text/event-stream; charset=utf-8', 'retry: 5\n\n'])
  await openStream(t, url, { headers: yours })
  for (let i = 0; i < 3; i++) await openStream(t, url)
  await openStream(t, url, { headers: { ...mine, 'x-session-id': streams[0]?.sessionId ?? '' } })
  t.equal(sessions.size, 6, 'resuming takes no room, and none is kept from those without a principal')
  await (await sessions.find(streams[0]?.sessionId ?? ''))?.close()
  await openStream(t, url, { headers: mine })
  const again = await openStream(t, url, { headers: mine, raw: true })
  await within(again.ended, 'the end')
  t.equal(again.raw(), 'retry: 5\n\n')
  t.equal(sessions.size, 6)
})

t.test('the room of a principal whose sessions have all ended is whole again', async t => {
  const { sessions, url } = await serve(t, { principal, maxSessionsPerPrincipal: 1, resumeTimeout: 20 })
  for (let i = 0; i < 3; i++) {
    const { destroy } = await openStream(t, url, { headers: mine })
    destroy()
    await until(() => sessions.size === 0, 'the expiry')
  }
})

t.test('with principals, an answer from before the session was looked up does not tell whether it is connected', async t => {
  const { url } = await serve(t, { principal })
  const { sessionId } = await openStream(t, url, { headers: mine })
  t.equal((await post(url, sessionId, '{', { headers: yours })).headers['x-session-connected'], undefined)
  t.equal((await post(url, sessionId, { text: 'hi' }, { headers: mine })).headers['x-session-connected'], 'true')
})

t.test('a principal that is null is nobody, as none is; one that is no string is an error that says so', async t => {
  let given: unknown = null
  const { sessions, url } = await serve(t, { principal: async () => given as string })
  const { sessionId } = await openStream(t, url)
  t.equal((await sessions.find(sessionId))?.principal, undefined)
  t.equal((await post(url, sessionId, { text: 'hi' })).status, 201)
  given = undefined
  t.equal((await post(url, sessionId, { text: 'hi' })).status, 201)
  given = 7
  refused(t, await post(url, sessionId, { text: 'hi' }), 500, 'FST_SSE_OPTION_INVALID')
  t.equal((await openStream(t, url, { raw: true })).status, 500)
})
