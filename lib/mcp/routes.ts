import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { BatchTooLarge, Closing, MediaTypeUnsupported, McpHostForbidden, McpMessageInvalid, McpMethodNotAllowed, McpSessionIdMissing, McpSessionUnknown, McpStreamUnknown, quote } from '../errors.js'
import { noop } from '../awaitable.js'
import { now } from '../clock.js'
import { logSafely } from '../safe-log.js'
import { attachStream, type AttachOptions } from '../routes/attach-stream.js'
import { getHeader } from '../routes/require-session.js'
import { addResponseHooks } from '../routes/response-hooks.js'
import { kInternals, Session } from '../sessions/session.js'
import { isPipelined, waitForConnection } from '../stream/pipelined-response.js'
import { getArrivalTime } from '../stream/request-time.js'
import { ResponseSink } from '../stream/response-sink.js'
import { requireJson, requireNoBodyOrJson } from '../wire/content-type.js'
import { CLOSED_ID, parseEventId } from '../wire/event-id.js'
import { serialize } from '../wire/frame.js'
import { LAST_EVENT_ID } from '../wire/headers.js'
import { Call } from './call.js'
import { checkAccept, checkHostAndOrigin, checkVersion } from './check-request.js'
import { createInternalError, INVALID_REQUEST, isRequest, isStateless, PARSE_ERROR, parseMessages, SERVER_ERROR, SESSION_NOT_FOUND, type JsonRpcMessage, type RequestId } from './json-rpc.js'
import { canPrime, getVersion } from './mcp-session.js'
import type { McpSettings } from './options.js'
import { PRIMING, type McpRegistry } from './registry.js'
import { isStorable, MAX_LENGTH } from './setup-requests.js'
import { MessageExtra, type McpHandlerLike } from './transport.js'

const MCP_SESSION_ID = 'mcp-session-id'
const ALLOW = 'GET, POST, DELETE'
/** The first revision without batches. */
const NO_BATCHES_REVISION = '2025-06-18'

const JSON_TYPE = 'application/json'
const STREAM_TYPE = 'text/event-stream'

/** Adds the routes of the endpoint. `scope` must contain no other routes. */
export async function mcpRoutes (scope: FastifyInstance, { registry, settings }: { registry: McpRegistry, settings: McpSettings }): Promise<void> {
  const { sessions } = registry
  scope.setErrorHandler(async (error: Error & { code?: string, statusCode?: number }, _request, reply) => {
    const { code = '', statusCode = 500 } = error
    // Errors of the app have the format that the app has chosen.
    if (!/^FST_(?:SSE|ERR_CTP)_/.test(code) || statusCode === 500) throw error
    reply.code(statusCode).type(JSON_TYPE)
    return JSON.stringify({ jsonrpc: '2.0', id: null, error: { code: getErrorCode(code), message: error.message, data: { code } } })
  })
  scope.addHook('onRequest', async request => { checkHostAndOrigin(request, settings) })
  addResponseHooks(scope, sessions, MCP_SESSION_ID, 'Mcp-Session-Id')

  const respond = (handle: (registry: McpRegistry, request: FastifyRequest, reply: FastifyReply) => Promise<void>) => (request: FastifyRequest, reply: FastifyReply): void => {
    if (!sessions.trackReply(reply, request.method !== 'GET')) return
    handle(registry, request, reply).catch((error: unknown) => {
      if (sessions.canSend(reply)) reply.send(error)
      else logSafely(request.log, 'error', { err: error }, 'an MCP request failed after another response was sent')
    })
  }
  const { path: url } = settings
  scope.route({ method: 'POST', url, preParsing: requireJson('"Content-Type: application/json"'), handler: respond(handlePost) })
  scope.route({ method: 'GET', url, exposeHeadRoute: false, handler: respond(handleGet) })
  scope.route({ method: 'DELETE', url, preParsing: requireNoBodyOrJson, handler: respond(handleDelete) })
  scope.route({ method: ['HEAD', 'PATCH', 'PUT'], url, handler: (_request, reply) => { reply.header('allow', ALLOW).send(new McpMethodNotAllowed()) } })
}

/** Returns the code of JSON-RPC for an error of Fastify or of the plugin. */
function getErrorCode (code: string): number {
  if (code === new McpSessionUnknown().code) return SESSION_NOT_FOUND
  if (code === new McpMessageInvalid('').code) return INVALID_REQUEST
  return code === 'FST_ERR_CTP_INVALID_JSON_BODY' || code === 'FST_ERR_CTP_EMPTY_JSON_BODY' ? PARSE_ERROR : SERVER_ERROR
}

async function handlePost (registry: McpRegistry, request: FastifyRequest, reply: FastifyReply): Promise<void> {
  const requestedAt = now()
  const sink = new ResponseSink(reply.raw)
  const { body } = request
  if (body === undefined) throw new MediaTypeUnsupported('"Content-Type: application/json"')
  const url = `${request.protocol}://${request.host}${request.originalUrl}`
  // For example, the port is too large, or a header for `trustProxy` is invalid.
  if (!URL.canParse(url)) throw new McpHostForbidden(quote(request.host))
  const extra = new MessageExtra({ url, headers: request.headers, authInfo: (request as { auth?: unknown }).auth })
  if (registry.handler !== undefined && isStateless(body, request.headers['mcp-protocol-version'])) {
    await handleStateless(registry, registry.handler, { request, reply, extra, sink })
    return
  }
  checkAccept(request, JSON_TYPE, STREAM_TYPE)
  const messages = parseMessages(body)
  const principal = await registry.sessions.settings.principal?.(request)
  if (messages.some(({ method }) => method === 'initialize')) {
    const [message] = messages
    if (messages.length > 1 || message === undefined || !isRequest(message)) throw new McpMessageInvalid('"initialize" must be a request, and the only one')
    if (request.headers[MCP_SESSION_ID] !== undefined) throw new McpMessageInvalid('the session was initialized before; send "initialize" without the Mcp-Session-Id header to start a new one')
    if (!isStorable(message)) throw new McpMessageInvalid(`"initialize" must have at most ${MAX_LENGTH} characters of JSON that is not nested too deeply`)
    const { response, session } = await registry.start(message, principal, extra)
    if (session !== undefined) reply.header(MCP_SESSION_ID, session.id)
    send(registry, reply, 200, serializeResponse(response))
    return
  }
  const { maxWaitingMessages } = registry.sessions.settings
  if (messages.length > Math.max(maxWaitingMessages, 1)) throw new BatchTooLarge(maxWaitingMessages)
  const session = await findSession(registry, request, principal)
  const version = getVersion(session)
  if (Array.isArray(body) && version >= NO_BATCHES_REVISION) throw new McpMessageInvalid(`revision ${version} has no batches; send each message in a request of its own`)
  const hasRequests = messages.some(isRequest)
  if (hasRequests && registry.closing) throw new Closing()
  if (!hasRequests) {
    await registry.receive(session, messages, extra)
    send(registry, reply, 202)
    return
  }
  const call = await registry.call(session, messages, extra)
  const response = call instanceof Session ? call : await call.response
  if (response instanceof Session) {
    const canRespond = await waitUntilNotPipelined(request, reply)
    const cursor = response[kInternals].cursor
    const onAttach = (): void => { if (call instanceof Call) call.onAttach(response) }
    const sent = canRespond && sendStream(registry, session, response, { sink, cursor, requestedAt, onAttach }, reply)
    // From now on, the stream expires if its client is disconnected and does not reconnect in time. That cancels the call.
    response[kInternals].release()
    await sent
    return
  }
  const json = response.map(serializeResponse).join()
  send(registry, reply, 200, Array.isArray(body) ? `[${json}]` : json)
}

/** Passes a request of a revision without sessions to the handler of the SDK. If the client disconnects, its call is canceled. */
async function handleStateless (registry: McpRegistry, handler: McpHandlerLike, { request, reply, extra, sink }: { request: FastifyRequest, reply: FastifyReply, extra: MessageExtra, sink: ResponseSink }): Promise<void> {
  if (registry.closing) throw new Closing()
  if (sink.closed) return
  const { body } = request
  const aborter = new AbortController()
  // A subscription does not end by itself.
  const onEnd = (body as JsonRpcMessage).method === 'subscriptions/listen' ? noop : registry.onStatelessRequest()
  const onClose = (): void => {
    aborter.abort()
    onEnd()
  }
  sink.listener = { onDrain: noop, onClose }
  await registry.sessions.settings.principal?.(request)
  const response = await handler.fetch(extra.createRequest(aborter.signal), { authInfo: extra.authInfo, parsedBody: body } as never)
  if (registry.sessions.canSend(reply)) reply.send(response)
}

async function handleGet (registry: McpRegistry, request: FastifyRequest, reply: FastifyReply): Promise<void> {
  const requestedAt = getArrivalTime(request)
  const sink = new ResponseSink(reply.raw)
  checkAccept(request, STREAM_TYPE)
  const session = await findSession(registry, request, await registry.sessions.settings.principal?.(request))
  const lastEventId = getHeader(request, LAST_EVENT_ID)
  if (lastEventId === CLOSED_ID) {
    // [WHATWG HTML 9.2.1] The stream has ended. The clients of the SDKs stop, too.
    send(registry, reply, 204)
    return
  }
  if (!await waitUntilNotPipelined(request, reply)) return
  if (lastEventId === undefined) {
    if (registry.closing) throw new Closing()
    await sendStream(registry, session, session, { sink, cursor: session[kInternals].cursor, requestedAt }, reply)
    return
  }
  const eventId = parseEventId(lastEventId)
  if (eventId === undefined) throw new McpStreamUnknown()
  const streamSession = await registry.findStream(eventId.id, session)
  await sendStream(registry, session, streamSession, { sink, cursor: eventId.position, requestedAt }, reply)
}

/** Waits for earlier responses on the connection. Resolves with false, and closes the connection, if too many requests wait already. */
async function waitUntilNotPipelined (request: FastifyRequest, reply: FastifyReply): Promise<boolean> {
  if (!isPipelined(reply.raw) || await waitForConnection(reply.raw)) return true
  request.raw.socket.destroy()
  return false
}

async function handleDelete (registry: McpRegistry, request: FastifyRequest, reply: FastifyReply): Promise<void> {
  const session = await findSession(registry, request, await registry.sessions.settings.principal?.(request))
  await session.close('deleted')
  send(registry, reply, 204)
}

/** Sends a response with JSON, or without a body, if nothing else is being sent, such as the error of `close`. */
function send ({ sessions }: McpRegistry, reply: FastifyReply, status: number, json?: string): void {
  if (!sessions.canSend(reply)) return
  reply.code(status)
  if (json === undefined) reply.send()
  else reply.type(JSON_TYPE).send(json)
}

/** Serializes a response. One that cannot be serialized becomes an error, as in a stream. */
function serializeResponse (response: JsonRpcMessage): string {
  try {
    return serialize(response)
  } catch (error) {
    return serialize(createInternalError(response.id as RequestId, (error as Error).message))
  }
}

/** Finds the session of a request. Rejects with FST_SSE_MCP_SESSION_ID_MISSING, FST_SSE_MCP_VERSION_UNSUPPORTED or FST_SSE_MCP_SESSION_UNKNOWN. */
async function findSession (registry: McpRegistry, request: FastifyRequest, principal: string | undefined): Promise<Session> {
  const id = getHeader(request, MCP_SESSION_ID)
  if (id === undefined) throw new McpSessionIdMissing()
  checkVersion(request)
  return await registry.findSession(id, principal)
}

/** Sends the stream of a session of the store as the response. It replaces an earlier response. */
async function sendStream (registry: McpRegistry, session: Session, streamSession: Session, options: Pick<AttachOptions, 'sink' | 'cursor' | 'requestedAt' | 'onAttach'>, reply: FastifyReply): Promise<void> {
  streamSession[kInternals].retainForResume()
  const exists = await attachStream(registry.sessions, streamSession, {
    ...options,
    onAttach: () => {
      options.onAttach?.()
      if (streamSession !== session) registry.watch(streamSession)
    },
    welcome: canPrime(getVersion(session)) ? PRIMING : '',
    resumed: true,
    headers: { [MCP_SESSION_ID]: session.id },
    onAbort: () => { streamSession[kInternals].releaseAborted() }
  }, reply)
  if (!exists) throw streamSession === session ? new McpSessionUnknown() : new McpStreamUnknown()
}
