import type { FastifyReply, FastifyRequest, onRequestHookHandler, onSendHookHandler, RouteHandlerMethod, RouteOptions } from 'fastify'
import { andThen, isPromise, noop, type Awaitable } from '../awaitable.js'
import { copyArrays } from '../copy-arrays.js'
import { asError, IdempotencyKeyInvalid } from '../errors.js'
import { kInternals, type Session } from '../sessions/session.js'
import type { Sessions } from '../sessions/sessions.js'
import { JSON_TYPE } from '../sessions/upward-reply.js'
import type { QueuedMessage } from '../store/message-queue.js'
import { requireJson } from '../wire/content-type.js'
import { RESPONSE_EVENT } from '../wire/frame.js'
import { IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED, SESSION_CONNECTED, SESSION_ID } from '../wire/headers.js'
import { fingerprint, isIdempotencyKey, serializeData } from '../wire/idempotency-key.js'
import { handleBatch, kBatch, type RequestWithBatch } from './batch.js'
import { estimateMemory } from './estimate-memory.js'
import { BATCH_MESSAGE_PATH, MessageRequest } from './message-request.js'
import { captureResponse } from './captured-response.js'
import { handleMessage, sendResponse, waitForResult } from './message.js'
import { getHeader, kSession, requireSession, type RequestWithSession } from './require-session.js'

// If a route has a JSON Schema, Fastify creates its default validator compiler, which the schemas of handlers need.
const JSON_SCHEMA = { params: { type: 'object', properties: { event: { type: 'string', minLength: 1 } } } }

// Hides the route from @fastify/swagger.
const HIDDEN = { hide: true }
// Excludes the messages of a batch from @fastify/rate-limit: the batch counts as one request.
const UNLIMITED = { rateLimit: false as const }

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
  // This is not an async function: if its promise resolved while the hooks of an error response run, Fastify would respond a second time.
  const handler: RouteHandlerMethod = (request, reply) => {
    if (!sessions.trackReply(reply)) return
    const handled = handlePost(sessions, request, reply)
    if (handled instanceof Promise) handled.catch((error: unknown) => { if (sessions.canSend(reply)) reply.send(asError(error)) })
  }
  const internalHandler: RouteHandlerMethod = (request, reply) => {
    if (!(request.raw instanceof MessageRequest)) return reply.callNotFound()
    // At the end of `closeTimeout`, `close` must not respond with an error, which would be stored as the response of the message.
    if (sessions.trackReply(reply, false)) request.raw.handle(sessions, request, reply)
  }
  const acceptsBatches = upward.schema?.body === undefined
  const advice = acceptsBatches ? '"Content-Type: application/json" for one message, or "application/x-ndjson" for a batch' : '"Content-Type: application/json"'
  const schema = { ...usesJsonSchema && JSON_SCHEMA, ...upward.schema }
  return [
    { url: upwardPath, schema, handler },
    { url: `${upwardPath}/:event`, schema, handler },
    { url: upwardPath + BATCH_MESSAGE_PATH, schema: { ...schema, ...HIDDEN }, config: { ...upward.config, ...UNLIMITED }, childLoggerFactory: createMessageLogger, handler: internalHandler }
  ].map(route => ({
    ...copyArrays(upward),
    ...route,
    method: 'POST',
    preParsing: [requireJson(advice, acceptsBatches), upward.preParsing ?? []].flat(),
    onRequest: [prepareRequest, upward.onRequest ?? []].flat(),
    onSend: [upward.onSend ?? [], onSend, captureResponse].flat()
  }))
}

/** Returns the logger of a request. A {@link MessageRequest} has that of the original request, so that all log lines have the id of that request. */
const createMessageLogger: NonNullable<RouteOptions['childLoggerFactory']> = (logger, bindings, options, raw) => {
  if (!(raw instanceof MessageRequest)) return logger.child(bindings, options)
  // Fastify creates the logger after routing and before all hooks.
  raw.unlockUrl()
  return raw.log
}

/** Sets `request.params.event` if the event name is not in the path, so that all later hooks find it there. For a message of a batch, also sets the session and the id of the original request. */
const prepareRequest: onRequestHookHandler = (request: FastifyRequest & RequestWithSession, _reply, done) => {
  const { raw } = request
  const { event } = request.query as { event?: unknown }
  if (raw instanceof MessageRequest) {
    request[kSession] = raw.session
    request.id = raw.id
    request.params = { ...request.params as object, event: raw.event }
  } else if (event !== undefined) {
    request.params = { event, ...request.params as object }
  }
  done()
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

/** Handles a message or a batch. Sends the response only if nothing else is being sent, such as the 503 of `close`. */
function handlePost (sessions: Sessions, request: FastifyRequest & RequestWithBatch, reply: FastifyReply): Awaitable<void> {
  return andThen(requireSession(sessions, request), session => {
    const { event = 'message' } = request.params as { event?: string }
    const { [kBatch]: batch } = request
    if (batch !== undefined) {
      return handleBatch(sessions, session, batch, event, request, reply).then(results => { if (sessions.canSend(reply)) reply.type(JSON_TYPE).send(results) })
    }
    return handleSingle(sessions, session, event, request, reply)
  })
}

function handleSingle (sessions: Sessions, session: Session, event: string, request: FastifyRequest, reply: FastifyReply): Awaitable<void> {
  const id = getHeader(request, IDEMPOTENCY_KEY)
  if (id !== undefined && !isIdempotencyKey(id)) throw new IdempotencyKeyInvalid()
  const { body: data } = request
  const handle: QueuedMessage['handle'] = assertMayStart => handleMessage(sessions, session, { event, data, id }, reply, assertMayStart)
  // An answer does not wait in the queue, because the handlers before it may wait for this answer.
  if (event === RESPONSE_EVENT) return andThen(handle(), noop)
  let isStarted = false
  const queued = session[kInternals].messageQueue.enqueue({
    key: id,
    isConcurrent: sessions.handlers.isConcurrent(event),
    fingerprint: () => fingerprint(event, serializeData(data)),
    size: () => estimateMemory(data),
    handle: assertMayStart => {
      isStarted = true
      sessions.markStarted(reply)
      return handle(assertMayStart)
    }
  })
  const result = isStarted || !isPromise(queued) ? queued : waitForResult(sessions, session, queued, () => isStarted)
  return andThen(result, ({ response, replayed }) => { if (replayed && sessions.canSend(reply)) sendResponse(reply.header(IDEMPOTENT_REPLAYED, 'true'), response) })
}
