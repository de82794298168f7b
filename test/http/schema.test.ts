import type { JsonSchemaToTsProvider } from '@fastify/type-provider-json-schema-to-ts'
import Fastify, { type FastifyInstance } from 'fastify'
import { serializerCompiler, validatorCompiler, type ZodTypeProvider } from 'fastify-type-provider-zod'
import t from 'tap'
import { request } from 'undici'
import { z } from 'zod'
import sseSessions from '../../lib/index.js'
import { assertErrorResponse } from '../support/error-response.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { assertType, type IsSame } from '../support/types.js'
import { openStream, postMessage, type HttpResponse } from '../support/http-client.js'

const USER = { type: 'object', required: ['name'], properties: { name: { type: 'string' }, age: { type: 'integer', default: 7 } }, additionalProperties: false } as const

t.test('responds with 400 to data that does not match the schema, with the same body as Fastify', async t => {
  const { sessions, url } = await serve(t, {}, {
    afterRegister: app => app.post('/fastify', { schema: { body: USER } }, () => { t.fail('accepted by Fastify') })
  })
  sessions.handle('user', { schema: USER }, () => { t.fail('handled') })
  const { sessionId } = await openStream(t, url)
  for (const data of [{}, { name: {} }, { name: 'a', age: 'old' }, 7, null, []]) {
    const response = await postMessage(url, sessionId, data, { event: 'user' })
    assertErrorResponse(t, response, 400, 'FST_ERR_VALIDATION')
    t.strictSame(response.body, (await postMessage(url, '', data, { path: '/fastify' })).body)
  }
})

t.test('a validation error has the same properties as one of Fastify', async t => {
  const { sessions, url } = await serve(t, {}, {
    beforeRegister: app => { app.setErrorHandler<{ validation?: unknown, validationContext?: string }>(({ validation, validationContext }, _request, reply) => reply.code(400).send({ validation, validationContext })) }
  })
  sessions.handle('user', { schema: USER }, () => { t.fail('handled') })
  const { sessionId } = await openStream(t, url)
  matchList(t, (await postMessage(url, sessionId, { name: {} }, { event: 'user' })).body, { validation: [{ instancePath: '/name', keyword: 'type' }], validationContext: 'body' })
})

t.test('validation coerces types, removes additional properties and adds defaults, as in Fastify', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('user', { schema: USER }, (_session, data) => data)
  sessions.handle('number', { schema: { type: 'integer' } }, (_session, data) => ({ type: typeof data }))
  const { sessionId } = await openStream(t, url)
  t.strictSame((await postMessage(url, sessionId, { name: 1, more: true }, { event: 'user' })).body, { name: '1', age: 7 })
  t.strictSame((await postMessage(url, sessionId, '"7"', { event: 'number' })).body, { type: 'number' })
})

t.test('a schema can reference the shared schemas of the app', async t => {
  const { sessions, url } = await serve(t, {}, { beforeRegister: app => app.addSchema({ $id: 'user', ...USER }) })
  sessions.handle('users', { schema: { type: 'array', items: { $ref: 'user#' } } }, (_session, data) => data)
  const { sessionId } = await openStream(t, url)
  t.strictSame((await postMessage(url, sessionId, [{ name: 'a' }], { event: 'users' })).body, [{ name: 'a', age: 7 }])
  assertErrorResponse(t, await postMessage(url, sessionId, [{}], { event: 'users' }), 400, 'FST_ERR_VALIDATION')
})

t.test('a message whose data was changed by validation is recognized when it is repeated', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('user', { schema: USER }, (_session, data) => data)
  const { sessionId } = await openStream(t, url)
  for (const replayed of [undefined, 'true']) {
    const response = await postMessage(url, sessionId, { name: 1, more: true }, { event: 'user', key: 'k' })
    t.strictSame(response.body, { name: '1', age: 7 })
    t.equal(response.headers['idempotent-replayed'], replayed)
  }
})

t.test('errors are formatted by the formatter of the app, in a message and in a batch, also if it is set after the plugin', async t => {
  const formatter = (errors: unknown[], dataVar: string): Error => new Error(`${errors.length} in ${dataVar}`)
  const setFormatter = (app: FastifyInstance): unknown => app.setSchemaErrorFormatter(formatter)
  for (const options of [{ beforeRegister: setFormatter }, { afterRegister: setFormatter }, { fastify: { schemaErrorFormatter: formatter } }]) {
    const { sessions, url } = await serve(t, {}, options)
    sessions.handle('user', { schema: USER }, () => { t.fail('handled') })
    const { sessionId } = await openStream(t, url)
    const body = { statusCode: 400, code: 'FST_ERR_VALIDATION', message: '1 in body' }
    t.match(await postMessage(url, sessionId, {}, { event: 'user' }), { status: 400, body })
    matchList(t, (await postMessage(url, sessionId, '{"event":"user"}', { headers: { 'content-type': 'application/x-ndjson' } })).body, [{ status: 400, body }])
  }
})

t.test('the default formatter names all errors, as that of Fastify', async t => {
  const { sessions, url } = await serve(t, {}, {
    fastify: { ajv: { customOptions: { allErrors: true } } },
    afterRegister: app => app.post('/fastify', { schema: { body: { type: 'object', required: ['a', 'b'] } } }, () => {})
  })
  sessions.handle('all', { schema: { type: 'object', required: ['a', 'b'] } }, () => { t.fail('handled') })
  const { sessionId } = await openStream(t, url)
  t.strictSame((await postMessage(url, sessionId, {}, { event: 'all' })).body, (await postMessage(url, '', {}, { path: '/fastify' })).body)
})

t.test('uses a validator compiler that is set after the plugin', async t => {
  const { url } = await serve(t, {}, {
    afterRegister: app => {
      app.setValidatorCompiler<unknown>(({ schema }) => (data): boolean => data === schema)
      app.sseSessions.handle('same', { schema: 'x' }, (_session, data) => data)
    }
  })
  const { sessionId } = await openStream(t, url)
  t.match(await postMessage(url, sessionId, '"x"', { event: 'same' }), { status: 200, body: 'x' })
  assertErrorResponse(t, await postMessage(url, sessionId, '"y"', { event: 'same' }), 400, 'FST_ERR_VALIDATION')
})

t.test('Zod schemas work with the compilers and the type provider of fastify-type-provider-zod', async t => {
  const app = Fastify().withTypeProvider<ZodTypeProvider>()
  await app.register(sseSessions)
  app.setValidatorCompiler(validatorCompiler).setSerializerCompiler(serializerCompiler)
  app.sseSessions.withTypeProvider<ZodTypeProvider>().handle('rename', { schema: z.object({ name: z.string().trim() }) }, (_session, data) => {
    assertType<IsSame<typeof data, { name: string }>>()
    return data
  })
  t.teardown(() => app.close())
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const { sessionId } = await openStream(t, url)
  t.strictSame((await postMessage(url, sessionId, { name: ' ann ' }, { event: 'rename' })).body, { name: 'ann' })
  assertErrorResponse(t, await postMessage(url, sessionId, { name: 1 }, { event: 'rename' }), 400, 'FST_ERR_VALIDATION')
})

t.test('an invalid schema fails the boot', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(sseSessions)
  app.sseSessions.handle('user', { schema: { type: 'nonsense' } }, () => {})
  await t.rejects(async () => { await app.ready() }, /type must be/)
})

t.test('a handler can be added after the boot, and one with an invalid schema is rejected', async t => {
  const { sessions, url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  assertErrorResponse(t, await postMessage(url, sessionId, {}, { event: 'user' }), 404, 'FST_SSE_EVENT_UNKNOWN')
  t.throws(() => sessions.handle('user', { schema: { type: 'nonsense' } }, () => {}), /type must be/)
  assertErrorResponse(t, await postMessage(url, sessionId, {}, { event: 'user' }), 404, 'FST_SSE_EVENT_UNKNOWN')
  sessions.handle('user', { schema: USER }, (_session, data) => data)
  assertErrorResponse(t, await postMessage(url, sessionId, {}, { event: 'user' }), 400, 'FST_ERR_VALIDATION')
  t.equal((await postMessage(url, sessionId, { name: 'a' }, { event: 'user' })).status, 200)
})

t.test('messages keep their order when a schema is validated asynchronously', async t => {
  const { sessions, url } = await serve(t)
  const handled: unknown[] = []
  sessions.handle('async', { schema: { $async: true, ...USER } }, (_session, data) => { handled.push(data) })
  sessions.handle('sync', (_session, data) => { handled.push(data) })
  const { sessionId } = await openStream(t, url)
  assertErrorResponse(t, await postMessage(url, sessionId, {}, { event: 'async', key: 'k' }), 400, 'FST_ERR_VALIDATION')
  const lines = [{ event: 'async', data: { name: 'a', value: 1 } }, { event: 'async', data: {} }, { event: 'sync', data: 1 }]
  const { body } = await postMessage(url, sessionId, lines.map(line => JSON.stringify(line)).join('\n'), { headers: { 'content-type': 'application/x-ndjson' } })
  matchList(t, body, [{ status: 202 }, { status: 400, body: { code: 'FST_ERR_VALIDATION' } }, { status: 202 }])
  t.strictSame(handled, [{ name: 'a', age: 7 }, 1])
})

/** A schema of a library such as zod: an object with a method `parse`. */
interface Parser { parse: (data: unknown) => unknown }
const isParser = (schema: unknown): schema is Parser => typeof schema === 'object' && schema !== null && 'parse' in schema

t.test('uses the value or the error that a custom validator compiler returns', async t => {
  const { sessions, url } = await serve(t, {}, {
    beforeRegister: app => app.setValidatorCompiler<unknown>(({ schema }) => (data): object => {
      if (!isParser(schema)) throw new Error('this compiler does not support JSON Schema')
      try {
        return { value: schema.parse(data), error: null }
      } catch (error) {
        return { error }
      }
    })
  })
  const upper: Parser = {
    parse: data => {
      if (typeof data !== 'string') throw new Error('Expected a string')
      return data.toUpperCase()
    }
  }
  sessions.handle('upper', { schema: upper }, (_session, data) => ({ data }))
  sessions.handle('falsy', { schema: { parse: () => 0 } }, (_session, data) => ({ data }))
  sessions.handle('null', { schema: { parse: () => null } }, (_session, data) => ({ data }))
  const { sessionId } = await openStream(t, url)
  t.strictSame((await postMessage(url, sessionId, '"text"', { event: 'upper' })).body, { data: 'TEXT' })
  t.strictSame((await postMessage(url, sessionId, '"x"', { event: 'falsy' })).body, { data: 0 })
  t.strictSame((await postMessage(url, sessionId, '"x"', { event: 'null' })).body, { data: null })
  const response = await postMessage(url, sessionId, 7, { event: 'upper' })
  assertErrorResponse(t, response, 400, 'FST_ERR_VALIDATION')
  t.match(response.body, { message: /Expected a string/ })
  t.equal((await postMessage(url, sessionId, { text: 'hi' })).status, 201)
})

t.test('responds with 400 if a custom validator returns or resolves with false, or rejects', async t => {
  const validators: Record<string, () => object | false> = { false: () => false, 'async false': async () => false, rejects: async () => { throw new Error('rejected') } }
  const { sessions, url } = await serve(t, {}, {
    beforeRegister: app => app.setValidatorCompiler(({ schema }) => validators[String(schema)] ?? (() => true))
  })
  for (const event of Object.keys(validators)) sessions.handle(event, { schema: event }, () => { t.fail('handled') })
  const { sessionId } = await openStream(t, url)
  for (const event of Object.keys(validators)) assertErrorResponse(t, await postMessage(url, sessionId, {}, { event }), 400, 'FST_ERR_VALIDATION')
  t.match((await postMessage(url, sessionId, {}, { event: 'rejects' })).body, { message: 'rejected' })
})

t.test('a message without a body is validated as null, and the data of its handler is undefined', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('null', { schema: { type: 'null' } }, (_session, data) => String(data))
  sessions.handle('user', { schema: USER }, () => { t.fail('handled') })
  const { sessionId } = await openStream(t, url)
  const send = async (event: string): Promise<HttpResponse> => {
    const { statusCode: status, headers, body } = await request(`${url}/upward/${event}`, { method: 'POST', headers: { 'x-session-id': sessionId } })
    return { status, headers, body: status === 200 ? await body.text() : await body.json() }
  }
  t.match(await send('null'), { status: 200, body: 'undefined' })
  assertErrorResponse(t, await send('user'), 400, 'FST_ERR_VALIDATION')
})

t.test('invalid handlers are rejected', async t => {
  const { sessions } = await serve(t)
  const code = 'FST_SSE_HANDLER_INVALID'
  for (const event of ['', 'a\nb', 'a\rb', 'a\0b', '\ud800']) t.throws(() => sessions.handle(event, () => {}), { code }, JSON.stringify(event))
  t.throws(() => Reflect.apply(sessions.handle, sessions, [7, () => {}]), { code })
  t.throws(() => Reflect.apply(sessions.handle, sessions, ['a', 'not a function']), { code })
  t.throws(() => Reflect.apply(sessions.handle, sessions, ['a', {}]), { code })
  t.throws(() => Reflect.apply(sessions.handle, sessions, ['a']), { code, message: /must be a function/ })
  for (const options of [undefined, null, 'schema']) t.throws(() => Reflect.apply(sessions.handle, sessions, ['a', options, () => {}]), { code, message: /must be an object/ })
  t.throws(() => Reflect.apply(sessions.handle, sessions, ['a', { body: {} }, () => {}]), { code, message: /"body"/ })
  sessions.handle('a', () => {})
  t.throws(() => sessions.handle('a', () => {}), { code, message: /already/ })
})

t.test('a type provider infers the type of the data of a handler', async t => {
  const { sessions, url } = await serve(t)
  sessions.withTypeProvider<JsonSchemaToTsProvider>()
    .handle('user', { schema: USER }, (_session, user) => {
      assertType<IsSame<typeof user, { name: string, age: number }>>()
      return user.name.toUpperCase()
    })
    .handle('literal', { schema: { type: 'object', required: ['n'], properties: { n: { enum: [1, 2] } } } }, (_session, data) => {
      assertType<IsSame<typeof data.n, 1 | 2>>()
      return data.n
    })
    .handle('anything', (_session, data) => {
      assertType<IsSame<typeof data, unknown>>()
      return data
    })
  sessions.handle('untyped', { schema: USER }, (_session, data) => {
    assertType<IsSame<typeof data, unknown>>()
    return data
  })
  const { sessionId } = await openStream(t, url)
  t.equal((await postMessage(url, sessionId, { name: 'a' }, { event: 'user' })).body, 'A')
})
