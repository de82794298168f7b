import Fastify, { type FastifyServerOptions } from 'fastify'
import t from 'tap'
import { request } from 'undici'
import autoload from '@fastify/autoload'
import sseSessions, { type Sessions, type SseSessionsOptions } from '../../lib/index.js'
import { IGNORED_OPTIONS } from '../../lib/options.js'
import { assertType, type IsSame } from '../support/types.js'
import { listen, serve } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { collectProcessWarnings } from '../support/process-warnings.js'
import { createTestFolder } from '../support/test-folder.js'

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
  t.equal((await postMessage(url, sessionId, { text: 'hi' }, { path: '/api/v1/chat/messages' })).status, 201)
  t.match((await waitFor(({ event }) => event === 'message')).data, { text: 'Data received: hi' })
  t.equal((await postMessage(url, sessionId, {}, { path: '/api/v1/chat/messages', event: 'unknown' })).status, 404)
  for (const path of ['/downward', '/chat/events', '/api/v1/downward', '/api/v1/chat/downward']) {
    t.equal((await request(url + path)).statusCode, 404, path)
  }
})

t.test('two registrations with their own decorator and prefix do not share sessions', async t => {
  const { app, url } = await serve(t, { prefix: '/chat' }, {
    afterRegister: app => app.register(sseSessions, { prefix: '/support', decorator: 'supportSessions', closeTimeout: 500 })
  })
  const chat = await openStream(t, url, { path: '/chat/downward' })
  const support = await openStream(t, url, { path: '/support/downward' })
  t.equal(app.sseSessions.size, 1)
  t.equal(app.supportSessions.size, 1)
  t.equal((await postMessage(url, chat.sessionId, { text: 'hi' }, { path: '/support/upward' })).status, 404)
  await app.supportSessions.broadcast('news', 'for support')
  await app.sseSessions.broadcast('news', 'for chat')
  t.equal((await chat.waitFor(({ event }) => event === 'news')).data, 'for chat')
  t.equal((await support.waitFor(({ event }) => event === 'news')).data, 'for support')
  t.equal(chat.events.length + support.events.length, 4)
})

t.test('twelve registrations cause no MaxListenersExceededWarning', async t => {
  const warned = collectProcessWarnings(t)
  const names = Array.from({ length: 12 }, (_, n) => `tenant${n}`)
  const { url } = await serve(t, {}, {
    afterRegister: async app => { for (const name of names) await app.register(sseSessions, { prefix: `/${name}`, decorator: name, closeTimeout: 500 }) }
  })
  for (const name of names) {
    const { sessionId } = await openStream(t, url, { path: `/${name}/downward` })
    t.equal((await postMessage(url, sessionId, { text: 'hi' }, { path: `/${name}/upward` })).status, 201)
  }
  t.strictSame(warned, [])
})

t.test('a second registration with the same decorator fails the boot, and the error names the option', async t => {
  const app = Fastify()
  await app.register(sseSessions)
  await t.rejects(async () => { await app.register(sseSessions, { prefix: '/two' }) }, { code: 'FST_SSE_OPTION_INVALID', message: /option "decorator"/ })
})

t.test('options that Fastify, @fastify/autoload and fastify-cli pass to every plugin do not fail the boot', async t => {
  assertType<IsSame<Exclude<keyof FastifyServerOptions, keyof SseSessionsOptions | typeof IGNORED_OPTIONS[number]>, never>>()
  for (const name of IGNORED_OPTIONS) {
    const app = Fastify()
    await t.resolves(async () => { await app.register(sseSessions, { [name]: name }) }, name)
    await app.close()
  }
  const dir = createTestFolder(t, { 'sessions.js': `export { default } from '${new URL('../../lib/index.js', import.meta.url).href}'\nexport const autoConfig = { paths: { downward: '/events' } }` })
  const app = Fastify()
  await app.register(async api => { await api.register(autoload, { dir, forceESM: true, options: { prefix: '/chat', skipOverride: true, logger: true } }) }, { prefix: '/api' })
  const url = await listen(t, app)
  await openStream(t, url, { path: '/api/chat/events' })
})

t.test('options can be a function of the instance', async t => {
  const app = Fastify()
  await app.register(sseSessions, ({ initialConfig }) => ({ prefix: `/${initialConfig.pluginTimeout}` }))
  await openStream(t, await listen(t, app), { path: '/10000/downward' })
})
