import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import sseSessions, { type SseSessionsOptions } from '../../lib/index.js'
import { injectSession } from '../../lib/testing.js'
import { within } from '../support/wait.js'

async function build (t: Test, options: SseSessionsOptions = {}): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(sseSessions, options)
  return app
}

t.test('a session is opened without a socket, and yields what is sent to it', async t => {
  const app = await build(t)
  app.get('/other', () => 'other')
  const session = await within(injectSession(app), 'the session')
  t.match(session.welcome, { sessionId: session.id, resumed: false, text: 'Welcome to the chat!' })
  t.match(session.headers, { 'content-type': 'text/event-stream; charset=utf-8', 'x-session-id': session.id })
  const answer = await app.inject({ method: 'POST', url: '/upward', headers: { 'x-session-id': session.id }, payload: { text: 'hi' } })
  t.equal(answer.statusCode, 201)
  t.equal(answer.headers['x-session-connected'], 'true')
  t.match(await within(session.next(), 'the echo'), { done: false, value: { event: 'message', data: { text: 'Data received: hi' }, id: /./ } })
  await (await app.sseSessions.find(session.id))?.emit('typing', { who: 'ä\r\n€\u2028' })
  t.match(await within(session.next(), 'the event'), { value: { event: 'typing', data: { who: 'ä\r\n€\u2028' } } })
})

t.test('a test reads many events in order with for await, until the session ends', async t => {
  const app = await build(t)
  const session = await injectSession(app)
  const sent = Array.from({ length: 500 }, (_, n) => n)
  const found = await app.sseSessions.find(session.id)
  for (const n of sent) found?.send(n)
  found?.close('done')
  const got: unknown[] = []
  await within((async () => { for await (const { event, data } of session) got.push(event === 'message' ? data : [event, data]) })(), 'the end')
  t.strictSame(got, [...sent, ['close', { reason: 'done' }]])
})

t.test('closing the app ends the iteration, and leaving the iteration does not keep the app from closing', async t => {
  const app = await build(t)
  const [stays, leaves] = [await injectSession(app), await injectSession(app)]
  await app.sseSessions.broadcast('news', 1)
  t.match(await leaves.next(), { value: { data: 1 } })
  // As `break` does in a loop.
  await leaves.return?.()
  const rest = (async () => { for await (const { event } of stays) t.equal(event, 'news') })()
  await within(app.close(), 'the close')
  await within(rest, 'the end of the iteration')
  t.strictSame(await stays.next(), { done: true, value: undefined })
})

t.test('a session is resumed with the id of the last event', async t => {
  const app = await build(t, { prefix: '/chat' })
  const first = await injectSession(app, { url: '/chat/downward' })
  for (const n of [1, 2]) await (await app.sseSessions.find(first.id))?.send(n)
  const { value } = await first.next()
  t.equal(value?.data, 1)
  const again = await injectSession(app, { url: '/chat/downward', headers: { 'last-event-id': value?.id ?? '' } })
  t.match(again.welcome, { sessionId: first.id, resumed: true })
  t.match(await again.next(), { value: { data: 2 } })
})

t.test('hooks see the headers that are given', async t => {
  const app = await build(t)
  app.sseSessions.addHook('onOpen', (_session, { headers }) => ({ who: headers.authorization }))
  t.match((await injectSession(app, { headers: { authorization: 'Bearer me' } })).welcome, { who: 'Bearer me' })
})

t.test('what is no stream is told, with the reason', async t => {
  const app = await build(t, { maxSessions: 1 })
  app.get('/events', (_request, reply) => reply.type('text/event-stream').send('data: 1\n\n'))
  await t.rejects(injectSession(app, { url: '/nowhere' }), /\/nowhere answered 404/)
  await t.rejects(injectSession(app, { headers: { accept: 'text/html' } }), /\/downward answered 406/)
  await t.rejects(injectSession(app, { url: '/events' }), /\/events did not begin with a welcome/)
  await injectSession(app)
  await t.rejects(injectSession(app), /\/downward did not begin with a welcome/)
})
