import cors from '@fastify/cors'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { request } from 'undici'
import type { SseSessionsOptions } from '../../lib/index.js'
import { serve, type ServeOptions } from '../support/server.js'
import { openStream, post, type Answer } from '../support/stream.js'

const ORIGIN = 'https://page.example'
const EXPOSED = ['X-Session-ID', 'X-Session-Connected', 'Idempotent-Replayed', 'Retry-After']

/** What a browser asks before it lets a page of another origin send what is not simple. */
async function preflight (url: string, method: string, headers: string): Promise<{ status: number, headers: Answer['headers'] }> {
  const { statusCode, headers: got, body } = await request(url, {
    method: 'OPTIONS',
    headers: { origin: ORIGIN, 'access-control-request-method': method, 'access-control-request-headers': headers }
  })
  await body.dump()
  return { status: statusCode, headers: got }
}

const listed = (header: Answer['headers'][string]): string[] => String(header ?? '').split(', ').filter(name => name !== '')

/** Has a page of another origin do all that it can: open, resume, post, post again, be refused, and close. */
async function usesAll (t: Test, url: string, allowed: string): Promise<void> {
  for (const [path, method, headers] of [
    ['/downward', 'GET', 'x-session-id,x-resume'],
    ['/upward', 'POST', 'content-type,idempotency-key,x-session-id'],
    ['/upward/typing', 'POST', 'content-type,x-session-id'],
    ['/downward', 'DELETE', 'x-session-id']
  ] as const) {
    const answer = await preflight(url + path, method, headers)
    t.equal(answer.status, 204, `${method} ${path}`)
    t.equal(answer.headers['access-control-allow-origin'], allowed)
    t.equal(answer.headers['access-control-allow-headers'], headers)
    t.ok(listed(answer.headers['access-control-allow-methods']).includes(method), `${method} is allowed`)
  }
  const origin = { origin: ORIGIN }
  const stream = await openStream(t, url, { headers: origin })
  const { sessionId } = stream
  const { statusCode, headers } = await request(`${url}/downward`, { method: 'DELETE', headers: { ...origin, 'x-session-id': 'unknown' } })
  t.equal(statusCode, 404)
  const answers = [stream, await post(url, sessionId, { text: 'hi' }, { headers: origin }), await post(url, 'unknown', {}, { headers: origin }), { headers }]
  for (const { headers } of answers) {
    t.equal(headers['access-control-allow-origin'], allowed)
    t.strictSame(EXPOSED.filter(name => !listed(headers['access-control-expose-headers']).includes(name)), [], 'pages can read our headers')
  }
}

/** An app with the option `cors`, and routes of its own beside ours. */
function serveCors (t: Test, cors: SseSessionsOptions['cors'], options: SseSessionsOptions = {}, more: ServeOptions = {}): ReturnType<typeof serve> {
  return serve(t, { ...cors !== undefined && { cors }, ...options }, {
    after: app => app.get('/other', async () => 'ours alone').delete('/chat/other', async () => 'ours alone'),
    ...more
  })
}

t.test('without the option no page of another origin is let in', async t => {
  const { url } = await serveCors(t, undefined)
  t.equal((await preflight(`${url}/upward`, 'POST', 'x-session-id')).status, 404)
  const { headers, sessionId } = await openStream(t, url, { headers: { origin: ORIGIN } })
  t.notOk('access-control-allow-origin' in headers)
  t.notOk('access-control-expose-headers' in headers)
  t.notOk('access-control-allow-origin' in (await post(url, sessionId, { text: 'hi' }, { headers: { origin: ORIGIN } })).headers)
})

t.test('cors: true lets in pages of every origin, without credentials', async t => {
  const { url } = await serveCors(t, true)
  await usesAll(t, url, '*')
  t.notOk('access-control-allow-credentials' in (await openStream(t, url, { headers: { origin: ORIGIN } })).headers)
})

t.test('the options of @fastify/cors pass through: origin, credentials, exposed headers', async t => {
  const { url } = await serveCors(t, { origin: [ORIGIN], credentials: true, exposedHeaders: ['X-Mine'] })
  await usesAll(t, url, ORIGIN)
  const { headers } = await openStream(t, url, { headers: { origin: ORIGIN } })
  t.equal(headers['access-control-allow-credentials'], 'true')
  t.equal(headers.vary, 'Origin')
  t.strictSame(listed(headers['access-control-expose-headers']), ['X-Mine', ...EXPOSED])
  const stranger = await openStream(t, url, { headers: { origin: 'https://stranger.example' } })
  t.notOk('access-control-allow-origin' in stranger.headers)
  t.strictSame(listed(stranger.headers['access-control-expose-headers']), ['X-Mine'])
})

for (const prefix of ['', '/chat']) {
  t.test(`the option is for our routes alone, under the prefix "${prefix}"`, async t => {
    const { url } = await serveCors(t, { origin: true, credentials: true }, { prefix })
    await usesAll(t, url + prefix, ORIGIN)
    t.equal((await preflight(`${url}/chat/other`, 'DELETE', 'x-any')).status, 404, 'a page gets no leave to call other routes')
    t.equal((await preflight(`${url}/other`, 'GET', 'x-any')).status, 404)
    const { headers } = await request(`${url}/other`, { headers: { origin: ORIGIN } })
    t.notOk('access-control-allow-origin' in headers)
  })
}

for (const option of [undefined, true] as const) {
  t.test(`an app that has @fastify/cors already keeps its own, with option cors ${String(option)}`, async t => {
    const { url } = await serveCors(t, option, {}, {
      before: app => app.register(cors, { origin: ORIGIN, methods: ['GET', 'POST', 'DELETE'], exposedHeaders: 'X-Of-App' })
    })
    await usesAll(t, url, ORIGIN)
    const { headers } = await openStream(t, url, { headers: { origin: ORIGIN } })
    t.equal(listed(headers['access-control-expose-headers'])[0], 'X-Of-App')
  })
}

t.test('an app may register @fastify/cors after the plugin, for its other routes', async t => {
  const { url } = await serveCors(t, { origin: ORIGIN }, {}, {
    after: (app: FastifyInstance) => app.get('/other', async () => 'other').register(cors, { origin: 'https://elsewhere.example' })
  })
  t.equal((await preflight(`${url}/other`, 'GET', 'x-any')).headers['access-control-allow-origin'], 'https://elsewhere.example')
  await openStream(t, url, { headers: { origin: ORIGIN } })
})
