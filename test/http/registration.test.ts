import Fastify from 'fastify'
import t from 'tap'
import { request } from 'undici'
import sseSessions, { type Sessions } from '../../lib/index.js'
import { listen, serve } from '../support/server.js'
import { openStream, post } from '../support/stream.js'
import { warnings } from '../support/process-warnings.js'

declare module 'fastify' {
  interface FastifyInstance {
    supportSessions: Sessions
  }
}

t.test('the routes have the prefixes of the enclosing scopes and of the plugin', async t => {
  const app = Fastify()
  await app.register(async api => {
    await api.register(async v1 => {
      await v1.register(sseSessions, { prefix: '/chat', paths: { downward: '/events', upward: '/messages' } })
    }, { prefix: '/v1' })
    t.ok(api.hasDecorator('sseSessions') === false, 'the registry belongs to the scope that registered the plugin')
  }, { prefix: '/api' })
  const url = await listen(t, app)
  const { sessionId, waitFor } = await openStream(t, url, { path: '/api/v1/chat/events' })
  t.equal((await post(url, sessionId, { text: 'hi' }, { path: '/api/v1/chat/messages' })).status, 201)
  t.match((await waitFor(({ event }) => event === 'message')).data, { text: 'Data received: hi' })
  t.equal((await post(url, sessionId, {}, { path: '/api/v1/chat/messages', event: 'unknown' })).status, 404)
  for (const path of ['/downward', '/chat/events', '/api/v1/downward', '/api/v1/chat/downward']) {
    t.equal((await request(url + path)).statusCode, 404, path)
  }
})

t.test('two registrations with their own decorator and prefix do not share sessions', async t => {
  const { app, url } = await serve(t, { prefix: '/chat' }, {
    after: app => app.register(sseSessions, { prefix: '/support', decorator: 'supportSessions', closeTimeout: 500 })
  })
  const chat = await openStream(t, url, { path: '/chat/downward' })
  const support = await openStream(t, url, { path: '/support/downward' })
  t.equal(app.sseSessions.size, 1)
  t.equal(app.supportSessions.size, 1)
  t.equal((await post(url, chat.sessionId, { text: 'hi' }, { path: '/support/upward' })).status, 404)
  await app.supportSessions.broadcast('news', 'for support')
  await app.sseSessions.broadcast('news', 'for chat')
  t.equal((await chat.waitFor(({ event }) => event === 'news')).data, 'for chat')
  t.equal((await support.waitFor(({ event }) => event === 'news')).data, 'for support')
  t.equal(chat.events.length + support.events.length, 4)
})

t.test('twelve registrations cause no MaxListenersExceededWarning', async t => {
  const warned = warnings(t)
  const names = Array.from({ length: 12 }, (_, n) => `tenant${n}`)
  const { url } = await serve(t, {}, {
    after: async app => { for (const name of names) await app.register(sseSessions, { prefix: `/${name}`, decorator: name, closeTimeout: 500 }) }
  })
  for (const name of names) {
    const { sessionId } = await openStream(t, url, { path: `/${name}/downward` })
    t.equal((await post(url, sessionId, { text: 'hi' }, { path: `/${name}/upward` })).status, 201)
  }
  t.strictSame(warned, [])
})

t.test('a second registration with the same decorator fails the boot, and the error names the option', async t => {
  const app = Fastify()
  await app.register(sseSessions)
  await t.rejects(async () => { await app.register(sseSessions, { prefix: '/two' }) }, { code: 'FST_SSE_OPTION_INVALID', message: /option "decorator"/ })
})
