import type { FastifyReply, FastifyRequest, onSendHookHandler, RouteOptions } from 'fastify'
import { andThen, isPromise, noop, type Awaitable } from '../awaitable.js'
import { IdempotencyKeyInvalid } from '../errors.js'
import { kStream, type Session } from '../sessions/session.js'
import type { Sessions } from '../sessions/sessions.js'
import { IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED, SESSION_CONNECTED, SESSION_ID } from '../wire/headers.js'
import { Batch, handleBatch } from './batch.js'
import { isIdempotencyKey, toQueuedMessage } from './message.js'
import { getHeader, kSession, requireSession, type RequestWithSession } from './require-session.js'

// If a route has a JSON Schema, Fastify creates its default validator compiler, which the schemas of handlers need.
const JSON_SCHEMA = { params: { type: 'object', properties: { event: { type: 'string', minLength: 1 } } } }

/** POST of the upward path, with and without an event name: adds messages to the queue of the session. `usesJsonSchema` is false if the app has set a validator compiler, which may not support JSON Schema. */
export function upwardRoutes (sessions: Sessions, usesJsonSchema: boolean): RouteOptions[] {
  const { routes: { upward }, upwardPath } = sessions.settings
  const onSend: onSendHookHandler<unknown> = (request, reply, payload, done) => {
    const setHeader = (connected: boolean | undefined): void => {
      if (connected !== undefined) reply.header(SESSION_CONNECTED, String(connected))
    }
    const connected = isConnected(sessions, request, reply)
    // Fastify accepts either a promise or a call of `done`, not both.
    if (isPromise(connected)) return connected.then(setHeader, noop)
    setHeader(connected)
    done(null, payload)
    return undefined
  }
  return [upwardPath, `${upwardPath}/:event`].map(url => ({
    ...upward,
    schema: { ...usesJsonSchema && JSON_SCHEMA, ...upward.schema },
    method: 'POST',
    url,
    onSend: [upward.onSend ?? [], onSend].flat(),
    // Not an async function, because a synchronous response costs less.
    handler: (request, reply) => {
      const body = handleRequest(sessions, request, reply)
      if (body instanceof Promise) return body
      reply.send(body)
      return undefined
    }
  }))
}

/** Returns whether the session of a request has a stream, or `undefined` if this cannot be determined. In that case no header is sent, because a client that receives `false` replaces its stream. */
function isConnected (sessions: Sessions, request: FastifyRequest & RequestWithSession, { statusCode }: FastifyReply): Awaitable<boolean | undefined> {
  const session = request[kSession]
  if (session !== null) return session?.connected === true
  const id = getHeader(request, SESSION_ID)
  if (id === undefined) return false
  // The request failed before its session was looked up. With principals, the id alone is not enough to look it up. After a
  // 503, the store is not called again.
  if (sessions.settings.principal !== undefined || statusCode === 503) return undefined
  return andThen(sessions.findCached(id), session => session?.connected === true)
}

/** Handles a message or a batch. Returns the response body. */
function handleRequest (sessions: Sessions, request: FastifyRequest, reply: FastifyReply): Awaitable<unknown> {
  return andThen(requireSession(sessions, request), session => {
    const { event = 'message' } = request.params as { event?: string }
    return request.body instanceof Batch
      ? handleBatch(sessions, session, request.body, event, request, reply)
      : handleMessage(sessions, session, event, request, reply)
  })
}

function handleMessage (sessions: Sessions, session: Session, event: string, request: FastifyRequest, reply: FastifyReply): Awaitable<unknown> {
  const id = getHeader(request, IDEMPOTENCY_KEY)
  if (id !== undefined && !isIdempotencyKey(id)) throw new IdempotencyKeyInvalid()
  const message = toQueuedMessage(sessions, session, { event, data: request.body, id }, request)
  return andThen(session[kStream].messageQueue.enqueue(message), ({ response, replayed }) => {
    if (replayed) reply.header(IDEMPOTENT_REPLAYED, 'true')
    if (response.error !== undefined) throw response.error
    reply.headers(response.headers).code(response.status)
    return response.body
  })
}
