import { setImmediate } from 'node:timers/promises'
import type { FastifyBaseLogger, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { noop } from '../awaitable.js'
import { asError, CrossSite, NotAcceptable, SessionUnknown, StoreUnavailable } from '../errors.js'
import { logSafely } from '../safe-log.js'
import { createGreeting } from '../sessions/echo.js'
import { kInternals, type Session } from '../sessions/session.js'
import type { Sessions } from '../sessions/sessions.js'
import { isPipelined, waitForConnection } from '../stream/pipelined-response.js'
import { getArrivalTime } from '../stream/request-time.js'
import { ResponseSink } from '../stream/response-sink.js'
import { CLOSED_ID, parseEventId } from '../wire/event-id.js'
import { frameRetry, serialize } from '../wire/frame.js'
import { LAST_EVENT_ID, RESUME, SESSION_ID, STREAM_HEADERS } from '../wire/headers.js'
import { acceptsEventStream } from '../wire/accept.js'
import { attachStream, type AttachOptions } from './attach-stream.js'
import { isForbiddenSite } from './cors.js'
import { getHeader } from './require-session.js'

/** Milliseconds for which a request still waits for its `onOpen` or `onResume` hooks after its client has disconnected. */
const DISCONNECT_GRACE = 1000
/** Iterations of the event loop that Node needs to read a request and the end of its connection, and to emit `close`. */
const READ_ITERATIONS = 3

/** GET of the downward path: opens a session, or resumes one. */
export function downwardRoute (sessions: Sessions): RouteOptions {
  const { routes: { downward }, downwardPath } = sessions.settings
  return {
    ...downward,
    method: 'GET',
    url: downwardPath,
    exposeHeadRoute: false,
    // This is not an async function, because Fastify would keep the Reply in memory until the promise settles.
    handler: (request, reply) => {
      if (!sessions.trackReply(reply, false)) return
      const sink = new ResponseSink(reply.raw)
      handleStream(sessions, request, reply, sink).catch((error: unknown) => {
        if (!sessions.canSend(reply)) logSafely(request.log, 'error', { err: error }, 'a request for a stream failed after another response was sent')
        else if (error instanceof StoreUnavailable) sendRetry(sessions, reply)
        else reply.send(asError(error))
      })
    }
  }
}

async function handleStream (sessions: Sessions, request: FastifyRequest, reply: FastifyReply, sink: ResponseSink): Promise<void> {
  const requestedAt = getArrivalTime(request)
  const lastEventId = getHeader(request, LAST_EVENT_ID)
  if (lastEventId === CLOSED_ID) {
    // [WHATWG HTML 9.2.1] A 204 makes an EventSource stop reconnecting.
    reply.code(204).send()
    return
  }
  if (!acceptsEventStream(getHeader(request, 'accept'))) throw new NotAcceptable()
  if (isForbiddenSite(request, reply)) throw new CrossSite()
  // With HTTP pipelining, one connection could otherwise open any number of sessions, and receive only the first stream.
  const canRespond = !isPipelined(reply.raw) || await waitForConnection(reply.raw)
  if (sessions.closing || !canRespond) {
    sendRetry(sessions, reply)
    return
  }
  const principal = await sessions.settings.principal?.(request)
  const authorizedUntil = await sessions.settings.expires?.(request)
  const eventId = lastEventId === undefined ? undefined : parseEventId(lastEventId)
  const id = eventId?.id ?? getHeader(request, SESSION_ID)
  const isReconnect = lastEventId !== undefined || id !== undefined
  if (isReconnect) await waitForPendingReads()
  const existing = id === undefined ? undefined : await sessions.findForResume(id, principal)
  if (sink.closed) return
  if (existing !== undefined) {
    existing[kInternals].retainForResume()
    const welcome = await runOnResume(sessions, existing, authorizedUntil, request, sink)
    const cursor = eventId?.position ?? existing[kInternals].cursor
    const onAbort = (): void => { existing[kInternals].releaseAborted() }
    await attachOrSendRetry(sessions, existing, { sink, welcome, resumed: true, requestedAt, cursor, headers: { [SESSION_ID]: existing.id }, onAbort }, reply)
    return
  }
  if (isReconnect && getHeader(request, RESUME) === 'required') throw new SessionUnknown()
  const session = await sessions.open(principal)
  if (session === undefined) {
    logSafely(request.log, 'warn', {}, 'a session was refused because there are too many; see options maxSessions and maxSessionsPerPrincipal')
    sendRetry(sessions, reply)
    return
  }
  // The cursor is read before the hooks run, so that the stream writes everything that they send.
  const cursor = session[kInternals].cursor
  const welcome = await runOnOpen(sessions, session, authorizedUntil, isReconnect, request, sink)
  // If the client disconnects before the stream starts, nobody has the id of the session.
  const onAbort = (): void => { sessions.discard(session, 'aborted') }
  await attachOrSendRetry(sessions, session, { sink, welcome, resumed: false, requestedAt, cursor, headers: { [SESSION_ID]: session.id }, onAbort }, reply)
}

/** Waits until Node has read everything that has arrived. If the client of a late request has disconnected meanwhile, the request must not replace the newer stream of this client. */
async function waitForPendingReads (): Promise<void> {
  for (let i = 0; i < READ_ITERATIONS; i++) await setImmediate()
}

/** Attaches the stream of a session. If the session does not exist any more, responds as {@link sendRetry}. */
async function attachOrSendRetry (sessions: Sessions, session: Session, options: AttachOptions, reply: FastifyReply): Promise<void> {
  if (!await attachStream(sessions, session, options, reply)) sendRetry(sessions, reply)
}

/** Records until when the client is authorized, and runs the `onOpen` hooks. Resolves with the data of the welcome event. If a hook refuses the session, discards it and rejects. */
async function runOnOpen (sessions: Sessions, session: Session, authorizedUntil: number | undefined, isReconnect: boolean, request: FastifyRequest, sink: ResponseSink): Promise<string> {
  const previous = isReconnect ? { previous: 'unknown' } : {}
  try {
    await sessions.authorize(session, authorizedUntil)
    const hookData = sessions.hooks.has('onOpen')
      ? await waitForHooks(sink, sessions.hooks.runStreamHooks('onOpen', session, request), request.log)
      : sessions.handlers.usesEcho ? createGreeting() : {}
    return serializeWelcome(sessions, session, false, { ...previous, ...hookData })
  } catch (error) {
    await sessions.discard(session, 'refused')
    throw error
  }
}

/** Records until when the client is authorized, and runs the `onResume` hooks. Resolves with the data of the welcome event. If a hook refuses the client, releases the session and rejects. */
async function runOnResume (sessions: Sessions, session: Session, authorizedUntil: number | undefined, request: FastifyRequest, sink: ResponseSink): Promise<string> {
  try {
    // Before the hooks, so that the session is not closed while they run.
    await sessions.authorize(session, authorizedUntil)
    const hookData = session.closed ? {} : await waitForHooks(sink, sessions.hooks.runStreamHooks('onResume', session, request), request.log)
    return serializeWelcome(sessions, session, true, hookData)
  } catch (error) {
    session[kInternals].release()
    throw error
  }
}

/** Waits for hooks. If the client disconnects, resolves at the latest a second later, so that a hook that never settles does not keep the session. */
function waitForHooks (sink: ResponseSink, hookData: Promise<object>, log: FastifyBaseLogger): Promise<object> {
  return new Promise((resolve, reject) => {
    let isLate = false
    const onClose = (): void => {
      setTimeout(() => {
        isLate = true
        resolve({})
      }, DISCONNECT_GRACE).unref()
    }
    if (sink.closed) onClose()
    else sink.listener = { onDrain: noop, onClose }
    hookData.then(resolve, (error: unknown) => {
      if (isLate) logSafely(log, 'error', { err: error }, 'an onOpen or onResume hook failed after its client had disconnected')
      reject(error)
    })
  })
}

/** Serializes the data of the welcome event. Hooks can add properties, but not replace those of the plugin. */
function serializeWelcome ({ settings: { heartbeatInterval }, handlers: { concurrentEvents } }: Sessions, { id: sessionId, closed }: Session, resumed: boolean, hookData: object): string {
  const properties = { sessionId, resumed, ...closed && { sessionClosed: true }, ...heartbeatInterval !== false && { heartbeatInterval }, ...concurrentEvents.length > 0 && { concurrent: concurrentEvents } }
  // `properties` is there twice: the first one decides the order in the JSON, the second one the values.
  return serialize({ ...properties, ...hookData, ...properties })
}

/** Responds to a client that should reconnect soon, if nothing else is being sent. After a status other than 200, an EventSource would not reconnect. */
function sendRetry (sessions: Sessions, reply: FastifyReply): void {
  if (sessions.canSend(reply)) reply.headers(STREAM_HEADERS).send(frameRetry(sessions.createRetryDelay()))
}
