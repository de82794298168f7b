import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { request } from 'undici'
import type { SseSessionsOptions } from '../../lib/index.js'
import { serve, type ServeOptions } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'

t.test('a forged session id or cursor, or the id of another principal, gives no access to a session', async t => {
  const { url, sessions } = await serve(t, { principal: request => String(request.headers['x-user']) })
  const ann = { 'x-user': 'ann' }
  const bob = { 'x-user': 'bob' }
  const { sessionId, events } = await openStream(t, url, { headers: ann })
  const forgeries = [
    sessionId.slice(0, -1), sessionId.slice(1), `${sessionId}x`, sessionId.toLowerCase(), sessionId.slice(0, 6), ` ${'x'.repeat(24)}`, '.', '__proto__', 'constructor', 'undefined', 'null', '*',
    `${sessionId}, ${sessionId}`, `${sessionId},`, `"${sessionId}"`, `${sessionId};`, encodeURIComponent(`${sessionId}ü`), `${sessionId}\u00e9`, '\u00ff'.repeat(24), 'x'.repeat(5000), '0'.repeat(24)
  ].filter(id => id !== sessionId)
  const cursors = ['', '.', '.zzzzzzzzzzz', '.-1', '.1.5', '.+1', '. 0', '.A', '.0.0', '.\u00e9', `.${'0'.repeat(12)}`]
  const assertUnknown = async (headers: Record<string, string>, what: string): Promise<void> => {
    const stream = await openStream(t, url, { headers })
    t.match(stream.events[0]?.data, { resumed: false, previous: 'unknown' }, what)
    t.not(stream.sessionId, sessionId, what)
    await (await sessions.find(stream.sessionId))?.close()
    t.equal((await openStream(t, url, { headers: { ...headers, 'x-resume': 'required' }, skipWelcome: true })).status, 404, what)
  }
  for (const id of forgeries) {
    const what = JSON.stringify(id.slice(0, 40))
    await assertUnknown({ ...ann, 'x-session-id': id }, `X-Session-ID ${what}`)
    await assertUnknown({ ...ann, 'last-event-id': `${id}.0` }, `Last-Event-ID ${what}`)
    t.match(await postMessage(url, id, { text: 'hi' }, { headers: ann }), { status: 404, body: { code: 'FST_SSE_SESSION_UNKNOWN' }, headers: { 'x-session-connected': 'false' } }, what)
    t.equal((await request(`${url}/downward`, { method: 'DELETE', headers: { ...ann, 'x-session-id': id } })).statusCode, 404, what)
  }
  for (const cursor of cursors) {
    await assertUnknown({ ...ann, 'last-event-id': sessionId + cursor }, `cursor ${JSON.stringify(cursor)}`)
  }
  await assertUnknown({ ...bob, 'last-event-id': String(events[0]?.id) }, "another principal's cursor")
  await assertUnknown({ ...bob, 'x-session-id': sessionId }, "another principal's id")
  t.equal((await postMessage(url, sessionId, { text: 'hi' }, { headers: bob })).status, 404)
  t.equal((await request(`${url}/downward`, { method: 'DELETE', headers: { ...bob, 'x-session-id': sessionId } })).statusCode, 404)
  t.equal((await sessions.find(sessionId))?.connected, true, 'the session is unchanged')
})

t.test('session ids are random and unique, and are not accepted in a URL', async t => {
  const { url, sessions } = await serve(t)
  const ids = new Set<string>()
  const bits = new Set<string>()
  for (let i = 0; i < 200; i++) {
    const { sessionId, destroy } = await openStream(t, url)
    destroy()
    ids.add(sessionId)
    t.match(sessionId, /^[\w-]{24}$/)
    const bytes = Buffer.from(sessionId, 'base64url')
    for (let bit = 0; bit < 144; bit++) bits.add(`${bit}=${(bytes[bit >> 3] ?? 0) >> (bit & 7) & 1}`)
  }
  t.equal(ids.size, 200)
  t.equal(bits.size, 288, 'each of the 144 bits is 0 in some ids and 1 in others')
  const [id = ''] = ids
  t.ok(await sessions.find(id))
  for (const path of [`/downward?sessionId=${id}`, `/downward?lastEventId=${id}.0`, `/downward?X-Session-ID=${id}`]) {
    t.match((await openStream(t, url, { path })).events[0]?.data, { resumed: false })
  }
  t.equal((await request(`${url}/upward?sessionId=${id}`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' })).statusCode, 400)
})

const CACHEABLE = 'public, max-age=60'
const makeCacheable = async (request: FastifyRequest, reply: FastifyReply): Promise<void> => { if (request.method === 'GET') reply.header('cache-control', CACHEABLE) }

const CACHE_HOOKS: Record<string, ServeOptions & { options?: SseSessionsOptions }> = {
  'no hook': {},
  'an onRequest hook': { beforeRegister: app => app.addHook('onRequest', makeCacheable) },
  'an onSend hook': { beforeRegister: app => app.addHook('onSend', makeCacheable) },
  'an onSend hook that is added after the plugin': { afterRegister: app => app.addHook('onSend', makeCacheable) },
  'an onSend hook of the route': { options: { routes: { downward: { onSend: makeCacheable } } } },
  'an onRoute hook': { beforeRegister: app => app.addHook('onRoute', route => { route.onSend = [route.onSend ?? [], makeCacheable].flat() }) }
}

for (const [hook, { options, ...serveOptions }] of Object.entries(CACHE_HOOKS)) {
  t.test(`a shared cache cannot store a response with a session id if the app has ${hook} that sets Cache-Control`, async t => {
    const { url, sessions } = await serve(t, options, serveOptions)
    sessions.handle('id', session => session.id)
    const { headers, sessionId, events } = await openStream(t, url)
    t.match(headers['cache-control'], /\bno-store\b/, 'a stream')
    const get = async (headers: Record<string, string>): Promise<unknown> => {
      const response = await request(`${url}/downward`, { headers })
      await response.body.dump()
      return response.headers['cache-control']
    }
    const others = hook === 'no hook' ? 'no-store' : CACHEABLE
    t.equal(await get({ accept: 'text/html' }), others, '406')
    t.equal(await get({ 'x-resume': 'required', 'last-event-id': 'unknown' }), others, '404')
    t.equal(await get({ 'last-event-id': 'closed' }), others, '204')
    t.equal((await postMessage(url, sessionId, {}, { event: 'id' })).headers['cache-control'], 'no-store')
    await (await sessions.find(sessionId))?.close()
    await openStream(t, url, { headers: { 'last-event-id': String(events[0]?.id) }, skipWelcome: true }).then(({ headers }) => { t.match(headers['cache-control'], /\bno-store\b/, 'a closed session') })
  })
}
