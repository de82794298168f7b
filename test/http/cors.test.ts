import cors from '@fastify/cors'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { request } from 'undici'
import type { SseSessionsOptions } from '../../lib/index.js'
import { assertErrorResponse } from '../support/error-response.js'
import { serve, type ServeOptions } from '../support/server.js'
import { openStream, postMessage, type HttpResponse } from '../support/http-client.js'

const ORIGIN = 'https://page.example'
const EXPOSED = ['X-Session-ID', 'X-Session-Connected', 'Idempotent-Replayed', 'Retry-After']

/** Sends the preflight request of a browser. */
async function sendPreflight (url: string, method: string, headers: string): Promise<{ status: number, headers: HttpResponse['headers'] }> {
  const { statusCode, headers: got, body } = await request(url, {
    method: 'OPTIONS',
    headers: { origin: ORIGIN, 'access-control-request-method': method, 'access-control-request-headers': headers }
  })
  await body.dump()
  return { status: statusCode, headers: got }
}

const splitList = (header: HttpResponse['headers'][string]): string[] => String(header ?? '').split(', ').filter(name => name !== '')

/** Asserts that a page of another origin can use all routes, and can read the headers of the plugin on every response. */
async function assertAllRoutesAllowed (t: Test, url: string, allowed: string): Promise<void> {
  for (const [path, method, headers] of [
    ['/downward', 'GET', 'x-session-id,x-resume'],
    ['/upward', 'POST', 'content-type,idempotency-key,x-session-id'],
    ['/upward/typing', 'POST', 'content-type,x-session-id'],
    ['/downward', 'DELETE', 'x-session-id']
  ] as const) {
    const preflight = await sendPreflight(url + path, method, headers)
    t.equal(preflight.status, 204, `${method} ${path}`)
    t.equal(preflight.headers['access-control-allow-origin'], allowed)
    t.equal(preflight.headers['access-control-allow-headers'], headers)
    t.ok(splitList(preflight.headers['access-control-allow-methods']).includes(method), `${method} is allowed`)
  }
  const origin = { origin: ORIGIN }
  const stream = await openStream(t, url, { headers: origin })
  const { sessionId } = stream
  const { statusCode, headers } = await request(`${url}/downward`, { method: 'DELETE', headers: { ...origin, 'x-session-id': 'unknown' } })
  t.equal(statusCode, 404)
  const responses = [stream, await postMessage(url, sessionId, { text: 'hi' }, { headers: origin }), await postMessage(url, 'unknown', {}, { headers: origin }), { headers }]
  for (const { headers } of responses) {
    t.equal(headers['access-control-allow-origin'], allowed)
    t.strictSame(EXPOSED.filter(name => !splitList(headers['access-control-expose-headers']).includes(name)), [], 'pages can read the headers of the plugin')
  }
}

/** Serves an app with the option `cors` that also has other routes. */
function serveCors (t: Test, cors: SseSessionsOptions['cors'], options: SseSessionsOptions = {}, more: ServeOptions = {}): ReturnType<typeof serve> {
  return serve(t, { ...cors !== undefined && { cors }, ...options }, {
    afterRegister: app => app.get('/other', async () => 'same origin only').delete('/chat/other', async () => 'same origin only'),
    ...more
  })
}

t.test('without option cors, pages of other origins are not allowed', async t => {
  const { url } = await serveCors(t, undefined)
  t.equal((await sendPreflight(`${url}/upward`, 'POST', 'x-session-id')).status, 404)
  const { headers, sessionId } = await openStream(t, url, { headers: { origin: ORIGIN } })
  t.notOk('access-control-allow-origin' in headers)
  t.notOk('access-control-expose-headers' in headers)
  t.notOk('access-control-allow-origin' in (await postMessage(url, sessionId, { text: 'hi' }, { headers: { origin: ORIGIN } })).headers)
})

t.test('cors: true allows all origins, without credentials', async t => {
  const { url } = await serveCors(t, true)
  await assertAllRoutesAllowed(t, url, '*')
  t.notOk('access-control-allow-credentials' in (await openStream(t, url, { headers: { origin: ORIGIN } })).headers)
})

t.test('option cors accepts the options of @fastify/cors: origin, credentials, exposedHeaders', async t => {
  const { url } = await serveCors(t, { origin: [ORIGIN], credentials: true, exposedHeaders: ['X-App'] })
  await assertAllRoutesAllowed(t, url, ORIGIN)
  const { headers } = await openStream(t, url, { headers: { origin: ORIGIN } })
  t.equal(headers['access-control-allow-credentials'], 'true')
  t.equal(headers.vary, 'Origin')
  t.strictSame(splitList(headers['access-control-expose-headers']), ['X-App', ...EXPOSED])
  const foreign = await openStream(t, url, { headers: { origin: 'https://foreign.example' } })
  t.notOk('access-control-allow-origin' in foreign.headers)
  t.strictSame(splitList(foreign.headers['access-control-expose-headers']), ['X-App'])
})

for (const prefix of ['', '/chat']) {
  t.test(`option cors applies to the routes of the plugin only, with prefix "${prefix}"`, async t => {
    const { url } = await serveCors(t, { origin: true, credentials: true }, { prefix })
    await assertAllRoutesAllowed(t, url + prefix, ORIGIN)
    t.equal((await sendPreflight(`${url}/chat/other`, 'DELETE', 'x-any')).status, 404, 'pages of other origins cannot call other routes')
    t.equal((await sendPreflight(`${url}/other`, 'GET', 'x-any')).status, 404)
    const { headers } = await request(`${url}/other`, { headers: { origin: ORIGIN } })
    t.notOk('access-control-allow-origin' in headers)
  })
}

for (const option of [undefined, true] as const) {
  t.test(`an earlier registration of @fastify/cors by the app takes precedence, with option cors ${String(option)}`, async t => {
    const { url } = await serveCors(t, option, {}, {
      beforeRegister: app => app.register(cors, { origin: ORIGIN, methods: ['GET', 'POST', 'DELETE'], exposedHeaders: 'X-App' })
    })
    await assertAllRoutesAllowed(t, url, ORIGIN)
    const { headers } = await openStream(t, url, { headers: { origin: ORIGIN } })
    t.equal(splitList(headers['access-control-expose-headers'])[0], 'X-App')
  })
}

t.test('a page of another site opens a session only if CORS allows its origin', async t => {
  const crossSite = { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'cors' }
  const open = async (url: string, headers: Record<string, string>): Promise<number> => (await openStream(t, url, { headers, skipWelcome: true })).status
  const setups: Array<[ServeOptions['beforeRegister'], SseSessionsOptions, allowed: number, foreign: number]> = [
    [undefined, {}, 403, 403],
    [undefined, { cors: true }, 200, 200],
    [undefined, { cors: { origin: [ORIGIN], credentials: true } }, 200, 403],
    [undefined, { cors: { origin: ORIGIN } }, 200, 403],
    [app => app.register(cors, { origin: [ORIGIN] }), {}, 200, 403],
    [app => app.addHook('onRequest', async (_request, reply) => { reply.header('access-control-allow-origin', ORIGIN) }), {}, 200, 403]
  ]
  for (const [beforeRegister, options, allowed, foreign] of setups) {
    const { sessions, url } = await serveCors(t, undefined, options, { ...beforeRegister && { beforeRegister } })
    t.equal(await open(url, { ...crossSite, origin: ORIGIN }), allowed)
    t.equal(await open(url, { ...crossSite, origin: 'https://foreign.example' }), foreign)
    // An image, or a link on a page of another site.
    t.equal(await open(url, { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors', accept: 'image/png,*/*' }), foreign)
    const opened = [allowed, foreign, foreign].filter(status => status === 200).length
    t.equal(sessions.size, opened)
    for (const site of ['same-origin', 'same-site', 'none']) t.equal(await open(url, { 'sec-fetch-site': site }), 200)
    t.equal(sessions.size, opened + 3)
  }
  const { url } = await serveCors(t, undefined)
  const { statusCode: status, headers, body } = await request(`${url}/downward`, { headers: crossSite })
  assertErrorResponse(t, { status, headers, body: await body.json() }, 403, 'FST_SSE_CROSS_SITE')
})

t.test('an app can register @fastify/cors for its other routes after the plugin', async t => {
  const { url } = await serveCors(t, { origin: ORIGIN }, {}, {
    afterRegister: (app: FastifyInstance) => app.get('/other', async () => 'other').register(cors, { origin: 'https://other.example' })
  })
  t.equal((await sendPreflight(`${url}/other`, 'GET', 'x-any')).headers['access-control-allow-origin'], 'https://other.example')
  await openStream(t, url, { headers: { origin: ORIGIN } })
})
