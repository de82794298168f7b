import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import sseSessions, { type SseSessionsOptions } from '../../lib/index.js'
import { injectSession } from '../../lib/testing.js'
import { withTimeout } from '../support/wait.js'

async function createApp (t: Test, options: SseSessionsOptions = {}): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(sseSessions, options)
  return app
}

t.test('injectSession opens a session without a socket, and yields its events', async t => {
  const app = await createApp(t)
  app.get('/other', () => 'other')
  const session = await withTimeout(injectSession(app), 'the session')
  t.match(session.welcome, { sessionId: session.id, resumed: false, text: 'Welcome to the chat!' })
  t.match(session.headers, { 'content-type': 'text/event-stream; charset=utf-8', 'x-session-id': session.id })
  const response = await app.inject({ method: 'POST', url: '/upward', headers: { 'x-session-id': session.id }, payload: { text: 'hi' } })
  t.equal(response.statusCode, 201)
  t.equal(response.headers['x-session-connected'], 'true')
  t.match(await withTimeout(session.next(), 'the echo'), { done: false, value: { event: 'message', data: { text: 'Data received: hi' }, id: /./ } })
  await (await app.sseSessions.find(session.id))?.emit('typing', { who: 'ä\r\n€\u2028' })
  t.match(await withTimeout(session.next(), 'the event'), { value: { event: 'typing', data: { who: 'ä\r\n€\u2028' } } })
})

t.test('for await yields all events in order, until the session is closed', async t => {
  const app = await createApp(t)
  const session = await injectSession(app)
  const sent = Array.from({ length: 500 }, (_, n) => n)
  const serverSession = await app.sseSessions.find(session.id)
  for (const n of sent) serverSession?.send(n)
  serverSession?.close('done')
  const received: unknown[] = []
  await withTimeout((async () => { for await (const { event, data } of session) received.push(event === 'message' ? data : [event, data]) })(), 'the end')
  t.strictSame(received, [...sent, ['close', { reason: 'done' }]])
})

t.test('closing the app ends the iteration, and a stopped iteration does not delay the close', async t => {
  const app = await createApp(t)
  const [iterated, stopped] = [await injectSession(app), await injectSession(app)]
  await app.sseSessions.broadcast('news', 1)
  t.match(await stopped.next(), { value: { data: 1 } })
  // This is what `break` in a loop does.
  await stopped.return?.()
  const rest = (async () => { for await (const { event } of iterated) t.equal(event, 'news') })()
  await withTimeout(app.close(), 'the close')
  await withTimeout(rest, 'the end of the iteration')
  t.strictSame(await iterated.next(), { done: true, value: undefined })
})

t.test('a session is resumed with the id of the last event', async t => {
  const app = await createApp(t, { prefix: '/chat' })
  const first = await injectSession(app, { url: '/chat/downward' })
  for (const n of [1, 2]) await (await app.sseSessions.find(first.id))?.send(n)
  const { value } = await first.next()
  t.equal(value?.data, 1)
  const resumed = await injectSession(app, { url: '/chat/downward', headers: { 'last-event-id': value?.id ?? '' } })
  t.match(resumed.welcome, { sessionId: first.id, resumed: true })
  t.match(await resumed.next(), { value: { data: 2 } })
})

t.test('hooks receive the headers of the request', async t => {
  const app = await createApp(t)
  app.sseSessions.addHook('onOpen', (_session, { headers }) => ({ authorization: headers.authorization }))
  t.match((await injectSession(app, { headers: { authorization: 'Bearer token' } })).welcome, { authorization: 'Bearer token' })
})

t.test('rejects with the reason if the response is not the stream of a session', async t => {
  const app = await createApp(t, { maxSessions: 1 })
  app.get('/events', (_request, reply) => reply.type('text/event-stream').send('data: 1\n\n'))
  await t.rejects(injectSession(app, { url: '/unknown' }), /\/unknown responded with 404/)
  await t.rejects(injectSession(app, { headers: { accept: 'text/html' } }), /\/downward responded with 406/)
  await t.rejects(injectSession(app, { url: '/events' }), /\/events did not begin with a welcome/)
  await injectSession(app)
  await t.rejects(injectSession(app), /\/downward did not begin with a welcome/)
})
