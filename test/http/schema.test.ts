import type { JsonSchemaToTsProvider } from '@fastify/type-provider-json-schema-to-ts'
import Fastify from 'fastify'
import t from 'tap'
import { request } from 'undici'
import sseSessions from '../../lib/index.js'
import { refused } from '../support/error-response.js'
import { serve } from '../support/server.js'
import { openStream, post, type Answer } from '../support/stream.js'

const USER = { type: 'object', required: ['name'], properties: { name: { type: 'string' }, age: { type: 'integer', default: 7 } }, additionalProperties: false } as const

t.test('data that the schema refuses is 400, as Fastify answers it, and not handled', async t => {
  const { sessions, url } = await serve(t, {}, {
    after: app => app.post('/fastify', { schema: { body: USER } }, () => { t.fail('taken by Fastify') })
  })
  sessions.handle('user', { schema: USER }, () => { t.fail('handled') })
  const { sessionId } = await openStream(t, url)
  for (const data of [{}, { name: {} }, { name: 'a', age: 'old' }, 7, null, []]) {
    const answer = await post(url, sessionId, data, { event: 'user' })
    refused(t, answer, 400, 'FST_ERR_VALIDATION')
    t.strictSame(answer.body, (await post(url, '', data, { path: '/fastify' })).body)
  }
})

t.test('an error handler finds in it what Fastify puts there', async t => {
  const { sessions, url } = await serve(t, {}, {
    before: app => { app.setErrorHandler<{ validation?: unknown, validationContext?: string }>(({ validation, validationContext }, _request, reply) => reply.code(400).send({ validation, validationContext })) }
  })
  sessions.handle('user', { schema: USER }, () => { t.fail('handled') })
  const { sessionId } = await openStream(t, url)
  t.match((await post(url, sessionId, { name: {} }, { event: 'user' })).body, { validation: [{ instancePath: '/name', keyword: 'type' }], validationContext: 'body' })
})

t.test('valid data is coerced, stripped and completed as Fastify does', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('user', { schema: USER }, (_session, data) => data)
  sessions.handle('number', { schema: { type: 'integer' } }, (_session, data) => ({ type: typeof data }))
  const { sessionId } = await openStream(t, url)
  t.strictSame((await post(url, sessionId, { name: 1, more: true }, { event: 'user' })).body, { name: '1', age: 7 })
  t.strictSame((await post(url, sessionId, '"7"', { event: 'number' })).body, { type: 'number' })
})

t.test('schemas may refer to those that the app has added', async t => {
  const { sessions, url } = await serve(t, {}, { before: app => app.addSchema({ $id: 'user', ...USER }) })
  sessions.handle('users', { schema: { type: 'array', items: { $ref: 'user#' } } }, (_session, data) => data)
  const { sessionId } = await openStream(t, url)
  t.strictSame((await post(url, sessionId, [{ name: 'a' }], { event: 'users' })).body, [{ name: 'a', age: 7 }])
  refused(t, await post(url, sessionId, [{}], { event: 'users' }), 400, 'FST_ERR_VALIDATION')
})

t.test('a repeat of a message that validation changed is still its repeat', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('user', { schema: USER }, (_session, data) => data)
  const { sessionId } = await openStream(t, url)
  for (const replayed of [undefined, 'true']) {
    const answer = await post(url, sessionId, { name: 1, more: true }, { event: 'user', key: 'k' })
    t.strictSame(answer.body, { name: '1', age: 7 })
    t.equal(answer.headers['idempotent-replayed'], replayed)
  }
})

t.test('a schema that is none ends the boot', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(sseSessions)
  app.sseSessions.handle('user', { schema: { type: 'nonsense' } }, () => {})
  await t.rejects(async () => { await app.ready() }, /type must be/)
})

t.test('a handler that is added later is validated, too, and a schema that is none refuses it', async t => {
  const { sessions, url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  refused(t, await post(url, sessionId, {}, { event: 'user' }), 404, 'FST_SSE_EVENT_UNKNOWN')
  t.throws(() => sessions.handle('user', { schema: { type: 'nonsense' } }, () => {}), /type must be/)
  refused(t, await post(url, sessionId, {}, { event: 'user' }), 404, 'FST_SSE_EVENT_UNKNOWN')
  sessions.handle('user', { schema: USER }, (_session, data) => data)
  refused(t, await post(url, sessionId, {}, { event: 'user' }), 400, 'FST_ERR_VALIDATION')
  t.equal((await post(url, sessionId, { name: 'a' }, { event: 'user' })).status, 200)
})

t.test('a validator that promises its verdict is waited for, and order is kept', async t => {
  const { sessions, url } = await serve(t)
  const handled: unknown[] = []
  sessions.handle('later', { schema: { $async: true, ...USER } }, (_session, data) => { handled.push(data) })
  sessions.handle('now', (_session, data) => { handled.push(data) })
  const { sessionId } = await openStream(t, url)
  refused(t, await post(url, sessionId, {}, { event: 'later', key: 'k' }), 400, 'FST_ERR_VALIDATION')
  const lines = [{ event: 'later', data: { name: 'a', value: 1 } }, { event: 'later', data: {} }, { event: 'now', data: 1 }]
  const { body } = await post(url, sessionId, lines.map(line => JSON.stringify(line)).join('\n'), { headers: { 'content-type': 'application/x-ndjson' } })
  t.match(body, [{ status: 202 }, { status: 400, body: { code: 'FST_ERR_VALIDATION' } }, { status: 202 }])
  t.strictSame(handled, [{ name: 'a', age: 7 }, 1])
})

/** A validator compiler as those of zod and its like are: schemas are objects that parse. */
interface Parser { parse: (data: unknown) => unknown }
const isParser = (schema: unknown): schema is Parser => typeof schema === 'object' && schema !== null && 'parse' in schema

t.test('an app\'s own validator compiler answers with the value to use, or the error', async t => {
  const { sessions, url } = await serve(t, {}, {
    before: app => app.setValidatorCompiler<unknown>(({ schema }) => (data): object => {
      if (!isParser(schema)) throw new Error('this app knows no JSON Schema')
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
  sessions.handle('nothing', { schema: { parse: () => null } }, (_session, data) => ({ data }))
  const { sessionId } = await openStream(t, url)
  t.strictSame((await post(url, sessionId, '"shout"', { event: 'upper' })).body, { data: 'SHOUT' })
  t.strictSame((await post(url, sessionId, '"x"', { event: 'falsy' })).body, { data: 0 })
  t.strictSame((await post(url, sessionId, '"x"', { event: 'nothing' })).body, { data: null })
  const answer = await post(url, sessionId, 7, { event: 'upper' })
  refused(t, answer, 400, 'FST_ERR_VALIDATION')
  t.match(answer.body, { message: /Expected a string/ })
  t.equal((await post(url, sessionId, { text: 'hi' })).status, 201)
})

t.test('a validator that only says no, or promises no, is 400', async t => {
  const verdicts: Record<string, () => object | false> = { no: () => false, later: async () => false, never: async () => { throw new Error('never') } }
  const { sessions, url } = await serve(t, {}, {
    before: app => app.setValidatorCompiler(({ schema }) => verdicts[String(schema)] ?? (() => true))
  })
  for (const event of Object.keys(verdicts)) sessions.handle(event, { schema: event }, () => { t.fail('handled') })
  const { sessionId } = await openStream(t, url)
  for (const event of Object.keys(verdicts)) refused(t, await post(url, sessionId, {}, { event }), 400, 'FST_ERR_VALIDATION')
  t.match((await post(url, sessionId, {}, { event: 'never' })).body, { message: 'body never' })
})

t.test('a message without a body is null to the validator, and still has no data', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('nothing', { schema: { type: 'null' } }, (_session, data) => String(data))
  sessions.handle('user', { schema: USER }, () => { t.fail('handled') })
  const { sessionId } = await openStream(t, url)
  const send = async (event: string): Promise<Answer> => {
    const { statusCode: status, headers, body } = await request(`${url}/upward/${event}`, { method: 'POST', headers: { 'x-session-id': sessionId } })
    return { status, headers, body: status === 200 ? await body.text() : await body.json() }
  }
  t.match(await send('nothing'), { status: 200, body: 'undefined' })
  refused(t, await send('user'), 400, 'FST_ERR_VALIDATION')
})

t.test('handlers that cannot be are refused', async t => {
  const { sessions } = await serve(t)
  const code = 'FST_SSE_HANDLER_INVALID'
  for (const event of ['', 'a\nb', 'a\rb', 'a\0b', '\ud800']) t.throws(() => sessions.handle(event, () => {}), { code }, JSON.stringify(event))
  t.throws(() => Reflect.apply(sessions.handle, sessions, [7, () => {}]), { code })
  t.throws(() => Reflect.apply(sessions.handle, sessions, ['a', 'no function']), { code })
  t.throws(() => Reflect.apply(sessions.handle, sessions, ['a', {}]), { code })
  sessions.handle('a', () => {})
  t.throws(() => sessions.handle('a', () => {}), { code, message: /already/ })
})

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false
const holds = <Claim extends true>(): Claim | undefined => undefined

t.test('a type provider types the data of a handler, which the compiler checks', async t => {
  const { sessions, url } = await serve(t)
  sessions.withTypeProvider<JsonSchemaToTsProvider>()
    .handle('user', { schema: USER }, (_session, user) => {
      holds<Same<typeof user, { name: string, age: number }>>()
      return user.name.toUpperCase()
    })
    .handle('literal', { schema: { type: 'object', required: ['n'], properties: { n: { enum: [1, 2] } } } }, (_session, data) => {
      holds<Same<typeof data.n, 1 | 2>>()
      return data.n
    })
    .handle('anything', (_session, data) => {
      holds<Same<typeof data, unknown>>()
      return data
    })
  sessions.handle('untyped', { schema: USER }, (_session, data) => {
    holds<Same<typeof data, unknown>>()
    return data
  })
  const { sessionId } = await openStream(t, url)
  t.equal((await post(url, sessionId, { name: 'a' }, { event: 'user' })).body, 'A')
})
