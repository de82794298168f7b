import type { FastifyError, FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { request } from 'undici'
import { openStream, postMessage } from '../support/http-client.js'
import { serve, type ServeOptions } from '../support/server.js'

const GENERIC = { statusCode: 500, error: 'Internal Server Error', message: 'An unexpected error has occurred; the log of the server contains it' }

/** Serves routes of which every one fails with `create()`, and returns the bodies of their responses. */
async function fail (t: Test, create: () => Error, options: Pick<ServeOptions, 'beforeRegister' | 'afterRegister'> = {}): Promise<{ bodies: Record<string, unknown>, logged: string[], hooked: string[] }> {
  const logged: string[] = []
  const hooked: string[] = []
  const write = (line: string): void => {
    const { err, level } = JSON.parse(line) as { err?: { message: string }, level: number }
    if (err !== undefined) logged.push(`${level} ${err.message}`)
  }
  const { url, sessions } = await serve(t, {}, {
    ...options,
    fastify: { logger: { level: 'info', stream: { write } } },
    beforeRegister: async app => {
      app.addHook('onError', async (_request, _reply, { message }) => { hooked.push(message) })
      app.addHook('preHandler', async ({ headers }) => { if (headers['x-fail'] === 'hook') throw create() })
      await options.beforeRegister?.(app)
    }
  })
  sessions.handle('sync', () => { throw create() }).handle('async', async () => { throw create() })
  sessions.addHook('onOpen', (_session, { headers }) => { if (headers['x-fail'] === 'open') throw create() })
  const { sessionId } = await openStream(t, url)
  const batch = await postMessage(url, sessionId, '{"event":"sync"}\n{"event":"async"}', { headers: { 'content-type': 'application/x-ndjson' } })
  const [first, second] = batch.body as Array<{ body: unknown }>
  return {
    bodies: {
      sync: (await postMessage(url, sessionId, {}, { event: 'sync' })).body,
      async: (await postMessage(url, sessionId, {}, { event: 'async' })).body,
      'sync in a batch': first?.body,
      'async in a batch': second?.body,
      hook: (await postMessage(url, sessionId, {}, { event: 'sync', headers: { 'x-fail': 'hook' } })).body,
      open: await (await request(`${url}/downward`, { headers: { 'x-fail': 'open' } })).body.json(),
      delete: await (await request(`${url}/downward`, { method: 'DELETE', headers: { 'x-session-id': sessionId, 'x-fail': 'hook' } })).body.json()
    },
    logged,
    hooked
  }
}

t.test('without an error handler of the app, clients do not receive the message of an unexpected error', async t => {
  const { bodies, logged, hooked } = await fail(t, () => new Error('secret'))
  for (const [name, body] of Object.entries(bodies)) t.strictSame(body, GENERIC, name)
  t.strictSame(logged, Object.keys(bodies).map(() => '50 secret'), 'the log contains each error once')
  t.strictSame(hooked, Object.keys(bodies).map(() => 'secret'), 'hooks receive each error')
})

t.test('the code, the status of the headers and the headers of an unexpected error are sent', async t => {
  const { url, sessions } = await serve(t)
  sessions.handle('code', (_session, _data, { reply }) => {
    reply.code(503)
    throw Object.assign(new Error('secret'), { code: 'MODEL_BUSY', headers: { 'retry-after': '7' } })
  })
  const { sessionId } = await openStream(t, url)
  const { status, headers, body } = await postMessage(url, sessionId, {}, { event: 'code' })
  t.equal(status, 503)
  t.match(headers, { 'retry-after': '7', 'content-type': 'application/json; charset=utf-8' })
  t.strictSame(body, { ...GENERIC, statusCode: 503, code: 'MODEL_BUSY', error: 'Service Unavailable' })
})

t.test('an error is expected if it has a status, or if the handler has set one below 500', async t => {
  for (const status of [{ statusCode: 409 }, { status: 409 }, { statusCode: 503 }, { status: 503 }]) {
    const { bodies } = await fail(t, () => Object.assign(new Error('for the client'), status))
    for (const [name, body] of Object.entries(bodies)) t.match(body, { statusCode: Object.values(status)[0], message: 'for the client' }, name)
  }
  const { url, sessions } = await serve(t)
  sessions.handle('taken', (_session, _data, { reply }) => {
    reply.code(409)
    throw new Error('taken')
  })
  const { sessionId } = await openStream(t, url)
  t.match((await postMessage(url, sessionId, {}, { event: 'taken' })).body, { statusCode: 409, message: 'taken' })
})

t.test('an error handler of the app gets the original error, wherever it is set', async t => {
  const setErrorHandler = (app: FastifyInstance): void => {
    app.setErrorHandler((error: FastifyError, _request, reply) => { reply.code(500).send({ mine: error.message }) })
  }
  for (const options of [{ beforeRegister: setErrorHandler }, { afterRegister: setErrorHandler }]) {
    const { bodies, logged, hooked } = await fail(t, () => new Error('secret'), options)
    for (const [name, body] of Object.entries(bodies)) t.strictSame(body, { mine: 'secret' }, name)
    t.strictSame(logged, [])
    t.strictSame(hooked, Object.keys(bodies).map(() => 'secret'))
  }
})

t.test('an error handler of a route takes the place of the others', async t => {
  const { url, sessions } = await serve(t, { routes: { upward: { errorHandler: (_error, _request, reply) => { reply.code(500).send('of the route') } } } })
  sessions.handle('x', () => { throw new Error('secret') })
  const { sessionId } = await openStream(t, url)
  t.match(await postMessage(url, sessionId, {}, { event: 'x' }), { status: 500, body: 'of the route' })
})
