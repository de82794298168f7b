import t from 'tap'
import { request } from 'undici'
import { serve } from '../support/server.js'
import { openStream, post } from '../support/stream.js'
import { within } from '../support/wait.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    route?: string
  }
}

t.test('option routes gives each route its own config, schema and hooks', async t => {
  const configs: unknown[] = []
  const headersSchema = { type: 'object', required: ['x-tenant'], properties: { 'x-tenant': { type: 'string', pattern: '^[a-z]+$' } } }
  const { url, sessions } = await serve(t, {
    routes: {
      downward: { config: { route: 'down' }, schema: { headers: headersSchema }, onSend: async (_request, reply) => { reply.header('x-route', 'down') } },
      upward: {
        config: { route: 'up' },
        schema: { params: { type: 'object', properties: { event: { type: 'string', maxLength: 5 } } } },
        onSend: async (_request, reply) => { reply.header('x-route', 'up') }
      },
      close: { config: { route: 'close' }, schema: { headers: headersSchema } }
    }
  }, {
    before: app => app.addHook('onRequest', async request => { configs.push(request.routeOptions.config.route) })
  })
  const tenant = { 'x-tenant': 'acme' }
  t.equal((await openStream(t, url, { raw: true })).status, 400)
  t.equal(sessions.size, 0)
  const stream = await openStream(t, url, { headers: tenant })
  t.equal(stream.headers['x-route'], 'down')
  t.match(await post(url, stream.sessionId, {}, { event: 'too-long' }), { status: 400, body: { code: 'FST_ERR_VALIDATION' } })
  t.match(await post(url, stream.sessionId, { text: 'hi' }), { status: 201, headers: { 'x-route': 'up' } })
  const close = async (headers: Record<string, string>): Promise<number> =>
    (await request(`${url}/downward`, { method: 'DELETE', headers: { ...headers, 'x-session-id': stream.sessionId } })).statusCode
  t.equal(await close({}), 400)
  t.equal(await close(tenant), 204)
  t.strictSame(configs, ['down', 'down', 'up', 'up', 'close', 'close'])
})

t.test('bodyLimit limits the size of a message and of a batch', async t => {
  const { url } = await serve(t, { routes: { upward: { bodyLimit: 30 } } })
  const { sessionId } = await openStream(t, url)
  t.equal((await post(url, sessionId, { text: 'x'.repeat(18) })).status, 201)
  t.match(await post(url, sessionId, { text: 'x'.repeat(20) }), { status: 413, body: { code: 'FST_ERR_CTP_BODY_TOO_LARGE' } })
  const batch = { headers: { 'content-type': 'application/x-ndjson' } }
  t.equal((await post(url, sessionId, '{"data":{"text":"x"}}\n', batch)).status, 200)
  t.equal((await post(url, sessionId, '{"data":{"text":"x"}}\n'.repeat(2), batch)).status, 413)
})

t.test('constraints select a route by host or by version', async t => {
  const constraints = { host: 'chat.example.com' }
  const { url } = await serve(t, { routes: { downward: { constraints }, upward: { constraints: { version: '2.0.0' } } } })
  t.equal((await openStream(t, url, { raw: true })).status, 404)
  const { sessionId } = await openStream(t, url, { headers: constraints })
  t.equal((await post(url, sessionId, { text: 'hi' })).status, 404)
  t.equal((await post(url, sessionId, { text: 'hi' }, { headers: { 'accept-version': '2.x' } })).status, 201)
})

t.test('the stream has no HEAD route, because it would open a session', async t => {
  const { url, sessions } = await serve(t, {}, { fastify: { exposeHeadRoutes: true } })
  t.equal((await within(request(`${url}/downward`, { method: 'HEAD' }), 'the response')).statusCode, 404)
  t.equal(sessions.size, 0)
})
