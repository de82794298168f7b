import compress from '@fastify/compress'
import cookie from '@fastify/cookie'
import helmet from '@fastify/helmet'
import rateLimit from '@fastify/rate-limit'
import swagger from '@fastify/swagger'
import t from 'tap'
import { request } from 'undici'
import { eventSources } from '../support/event-sources.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { deferred, withTimeout } from '../support/wait.js'

t.test('@fastify/helmet adds its headers to the stream and to every response', async t => {
  const { url } = await serve(t, {}, { beforeRegister: app => app.register(helmet) })
  const stream = await openStream(t, url)
  for (const { headers } of [stream, await postMessage(url, stream.sessionId, { text: 'hi' })]) {
    t.match(headers, { 'content-security-policy': /default-src/, 'x-content-type-options': 'nosniff', 'strict-transport-security': /max-age/ })
  }
})

t.test('@fastify/cookie sets the cookies of the app\'s hooks on the stream, and parses those of requests', async t => {
  const { url, sessions } = await serve(t, { principal: request => request.cookies.user }, {
    beforeRegister: app => app
      .register(cookie, { secret: 'a secret of the test' })
      .addHook('onRequest', async (_request, reply) => { reply.setCookie('early', '1', { path: '/', httpOnly: true }) })
      .addHook('onSend', async (_request, reply) => { reply.setCookie('late', 'ü;=', { signed: true }) })
  })
  const headers = { cookie: 'user=ann' }
  const stream = await openStream(t, url, { headers })
  const cookies = [stream.headers['set-cookie']].flat()
  t.match(cookies[0], /^early=1; Path=\/; HttpOnly/)
  t.match(cookies[1], /^late=%C3%BC%3B%3D\.[\w%]+/)
  t.equal((await sessions.find(stream.sessionId))?.principal, 'ann')
  t.equal((await postMessage(url, stream.sessionId, { text: 'hi' })).status, 404, 'without the cookie, the request has no principal')
  t.equal((await postMessage(url, stream.sessionId, { text: 'hi' }, { headers })).status, 201)
})

t.test('@fastify/rate-limit limits each route by its own config, and counts a stream once', async t => {
  const { url, sessions } = await serve(t, {
    routes: { downward: { config: { rateLimit: { max: 2, timeWindow: 60_000 } } }, upward: { config: { rateLimit: { max: 3, timeWindow: 60_000 } } } }
  }, { beforeRegister: app => app.register(rateLimit, { global: false }) })
  const stream = await openStream(t, url)
  t.match(stream.headers, { 'x-ratelimit-limit': '2', 'x-ratelimit-remaining': '1' })
  for (let i = 0; i < 3; i++) t.equal((await postMessage(url, stream.sessionId, { text: String(i) })).status, 201)
  t.match(await postMessage(url, stream.sessionId, { text: 'too many' }), { status: 429, headers: { 'retry-after': '60', 'x-session-connected': 'true' } })
  await openStream(t, url)
  t.equal((await openStream(t, url, { skipWelcome: true })).status, 429)
  t.equal(sessions.size, 2)
  await sessions.broadcast('news', 1)
  await stream.waitFor(({ event }) => event === 'news')
})

t.test('@fastify/swagger lists the routes with the schemas of option routes', async t => {
  const { app } = await serve(t, {
    prefix: '/chat',
    cors: true,
    routes: {
      downward: { schema: { summary: 'Open a session', tags: ['chat'] } },
      upward: { schema: { summary: 'Post a message', body: { type: 'object', properties: { text: { type: 'string' } } } } },
      close: { schema: { hide: true } }
    }
  }, { beforeRegister: app => app.register(swagger, { openapi: { info: { title: 'chat', version: '1' } } }) })
  const { paths = {} } = app.swagger() as { paths?: Record<string, Record<string, { summary?: string, requestBody?: unknown, parameters?: unknown }>> }
  t.strictSame(Object.entries(paths).map(([path, methods]) => [path, Object.keys(methods)]), [
    ['/chat/downward', ['get']], ['/chat/upward', ['post']], ['/chat/upward/{event}', ['post']]
  ])
  t.equal(paths['/chat/downward']?.get?.summary, 'Open a session')
  matchList(t, paths['/chat/upward/{event}']?.post, {
    summary: 'Post a message',
    parameters: [{ in: 'path', name: 'event', required: true, schema: { type: 'string' } }],
    requestBody: { content: { 'application/json': { schema: { properties: { text: { type: 'string' } } } } } }
  })
})

for (const when of ['before', 'after'] as const) {
  t.test(`@fastify/compress, global and registered ${when} the plugin, neither compresses nor delays the stream`, async t => {
    const other = async (): Promise<object> => ({ long: 'x'.repeat(5000) })
    const { url, sessions } = await serve(t, {}, {
      beforeRegister: app => when === 'before' ? app.register(compress, { global: true, threshold: 0 }) : undefined,
      afterRegister: async app => {
        if (when === 'after') await app.register(compress, { global: true, threshold: 0 })
        app.get('/other', other)
      }
    })
    const headers = { 'accept-encoding': 'gzip, br, deflate' }
    t.equal((await request(`${url}/other`, { headers })).headers['content-encoding'], 'br', 'other routes are compressed')
    const stream = await openStream(t, url, { headers })
    t.notOk('content-encoding' in stream.headers)
    t.equal(stream.headers['cache-control'], 'no-store, no-transform')
    for (let i = 0; i < 3; i++) {
      // Waiting for each event before sending the next shows that none is buffered.
      await sessions.broadcast('tick', i)
      await stream.waitFor(({ event, data }) => event === 'tick' && data === i, `tick ${i}`)
    }
    t.equal((await postMessage(url, stream.sessionId, { text: 'hi' })).status, 201)
  })
}

t.test('all of these plugins together serve an unmodified EventSource', async t => {
  const { url, sessions } = await serve(t, { cors: true }, {
    beforeRegister: async app => {
      await app.register(helmet)
      await app.register(cookie)
      await app.register(rateLimit, { max: 100 })
      await app.register(compress)
      await app.register(swagger)
    }
  })
  for (const [name, open] of eventSources) {
    const source = open(t, `${url}/downward`)
    const welcome = deferred()
    const news = deferred<unknown>()
    source.addEventListener('welcome', () => { welcome.resolve() })
    source.addEventListener('news', ({ data }) => { news.resolve(data) })
    await withTimeout(welcome.promise, `the welcome of ${name}`)
    await sessions.broadcast('news', name)
    t.equal(await withTimeout(news.promise, 'news'), JSON.stringify(name))
  }
})
