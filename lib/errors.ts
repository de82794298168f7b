import { createError } from '@fastify/error'
import { inspect } from 'node:util'

/**
 * All errors of this plugin. Each class has the name of its `code`, which is stable, and its message says what to do. The status is that of the
 * response if the error is not caught. Below 500, the cause is the request or the state of the session or run, otherwise the
 * app or its environment.
 */

// Errors of options and arguments, mostly at boot.
export const OptionInvalid = createError<[string]>('FST_SSE_OPTION_INVALID', '%s', 500, TypeError)
export const HookInvalid = createError<[string]>('FST_SSE_HOOK_INVALID', '%s', 500, TypeError)
/** The store cannot be used at boot. Has the code of {@link StoreUnavailable}, with a message for operators instead of clients. */
export const StoreUnreachable = createError<[string]>('FST_SSE_STORE_UNAVAILABLE', 'The Redis store cannot be used: %s', 503)
export const HandlerInvalid = createError<[string]>('FST_SSE_HANDLER_INVALID', '%s', 500, TypeError)

// Rejections of calls that the app makes.
export const EventInvalid = createError<[string]>('FST_SSE_EVENT_INVALID', 'Event name %s is invalid: it must be a non-empty, well-formed string without CR, LF and NUL, and not one of the reserved names welcome, gap, close, replaced, part, request, open, error, resume, disconnect and reset; in a run, also not end', 500, TypeError)
export const DataInvalid = createError<[string]>('FST_SSE_DATA_INVALID', 'The data of an event is invalid: %s', 500, TypeError)
export const ChannelInvalid = createError<[string]>('FST_SSE_CHANNEL_INVALID', 'Channel name %s is invalid: it must be a non-empty, well-formed string', 500, TypeError)
export const EntryTooLarge = createError<[number, number]>('FST_SSE_ENTRY_TOO_LARGE', 'An event of %d bytes does not fit a log of %d bytes; split it, or raise the "bytes" of option "log" (sessions), "channelLog" (channels and broadcasts) or "runLog" (runs)', 500, RangeError)
export const TooManyChannels = createError<[number]>('FST_SSE_TOO_MANY_CHANNELS', 'The session is already in %d channels; leave some, or raise option "maxChannelsPerSession"', 409)
export const RunInvalid = createError<[string]>('FST_SSE_RUN_INVALID', '%s', 500, TypeError)
export const RunsUnsupported = createError('FST_SSE_RUNS_UNSUPPORTED', 'The store of this server does not support runs; use memoryStore or redisStore', 501)
export const RunOver = createError('FST_SSE_RUN_OVER', 'The run has ended, so nothing can be added to it; stop producing when the signal aborts', 410)
export const SessionOver = createError('FST_SSE_SESSION_OVER', 'The session is closed, so nothing can be sent to it; stop producing when session.signal aborts', 410)
export const RequestTimeout = createError<[event: string, ms: number]>('FST_SSE_REQUEST_TIMEOUT', 'The client has not answered %s within %d ms; it may be disconnected. If it needs longer, raise "timeout"', 504)
export const RequestUnhandled = createError<[event: string]>('FST_SSE_REQUEST_UNHANDLED', 'The client has no handler for %s; add one with session.handle', 502)
export const RequestFailed = createError<[event: string, message: string]>('FST_SSE_REQUEST_FAILED', 'The handler of the client for %s has failed: %s', 502)

// Error responses to requests.
export const NotAcceptable = createError('FST_SSE_NOT_ACCEPTABLE', 'This resource is an event stream; send "Accept: text/event-stream"', 406)
export const CrossSite = createError('FST_SSE_CROSS_SITE', 'Pages of this site cannot open a session here; allow their origin with option "cors"', 403)
export const Unauthorized = createError('FST_SSE_UNAUTHORIZED', 'The credentials of this request have expired; send newer ones', 401)
export const SessionIdMissing = createError('FST_SSE_SESSION_ID_MISSING', 'Send the X-Session-ID header with the sessionId of the welcome event', 400)
export const SessionUnknown = createError('FST_SSE_SESSION_UNKNOWN', 'There is no such session; open a stream to get a new one', 404)
export const RunIdMissing = createError('FST_SSE_RUN_ID_MISSING', 'Send Last-Event-ID, or use the URL in the Location header of the response that has started the run', 400)
export const RunUnknown = createError('FST_SSE_RUN_UNKNOWN', 'There is no such run, or it is not kept any more; start a new one', 404)
export const RunExists = createError('FST_SSE_RUN_EXISTS', 'A run with this name has not ended yet; wait for its end, stop it, or follow it', 409)
export const TooManyRuns = createError<[number]>('FST_SSE_TOO_MANY_RUNS', 'The server already has %d runs that have not ended; try again later', 503)
export const EventUnknown = createError<[event: string, details: string]>('FST_SSE_EVENT_UNKNOWN', 'No handler is registered for event %s%s', 404)
export const TextMissing = createError('FST_SSE_TEXT_MISSING', 'The echo needs a JSON body with a non-empty string "text"', 400)
export const BatchMalformed = createError<[number, string]>('FST_SSE_BATCH_MALFORMED', 'Line %d of the batch is not a message: %s; no message of the batch was handled', 400)
export const BatchTooLarge = createError<[number]>('FST_SSE_BATCH_TOO_LARGE', 'The batch has more than the %d messages that a session may have waiting; send smaller batches', 413)
export const IdempotencyKeyInvalid = createError('FST_SSE_IDEMPOTENCY_KEY_INVALID', 'An Idempotency-Key has 1 to 255 printable ASCII characters and belongs to one message; in a batch, each line has its own "id"', 400)
export const IdempotencyKeyReused = createError('FST_SSE_IDEMPOTENCY_KEY_REUSED', 'This Idempotency-Key was used with another message before; use a new key for a new message', 422)
// Fastify does not export its own error with this code, whose message does not say what to send.
export const MediaTypeUnsupported = createError<[advice: string]>('FST_ERR_CTP_INVALID_MEDIA_TYPE', 'The content type is not supported; send %s', 415)
export const ResponseInvalid = createError<[string]>('FST_SSE_RESPONSE_INVALID', 'The handler of event %s must return or send a value, or return an async generator: a stream, a Response, a Blob or an async iterable that is sent cannot be stored for repeats. To send the items of a stream, `yield *` it in an async generator', 500, TypeError)
export const PartInvalid = createError('FST_SSE_PART_INVALID', 'A message "part" stops the values of an earlier message; its data must be {"message": "<the Idempotency-Key of that message>"}', 400)
export const AnswerInvalid = createError('FST_SSE_ANSWER_INVALID', 'A message "response" answers a request of the server; its data must be {"request": "<the id of the request>", "data": …}, or have "error": {"message": "…"} instead of "data"', 400)
export const RequestUnknown = createError('FST_SSE_REQUEST_UNKNOWN', 'No request with this id waits for an answer in this session: it was answered, has timed out or was cancelled; do not answer it again', 404)
export const DataTooDeep = createError('FST_SSE_DATA_TOO_DEEP', 'The JSON of a message with an Idempotency-Key is nested too deeply; flatten it', 400)
export const TooManyWaiting = createError<[number]>('FST_SSE_TOO_MANY_WAITING', 'The session has %d messages waiting; wait for their responses and try again', 429)
export const TooManyDeliveries = createError<[number]>('FST_SSE_TOO_MANY_DELIVERIES', 'The session already has %d streaming handlers, followed runs and requests to the client, more than "maxWaitingMessages"; wait until one has ended, stop one, or raise this option', 429)
export const ResponseDropped = createError('FST_SSE_RESPONSE_DROPPED', 'The message was handled, but its response is not stored any more, because the stored responses needed too much memory; do not send the message again', 410)
export const MemoryFull = createError('FST_SSE_MEMORY_FULL', 'The memory for messages is used up; try again with the same Idempotency-Key', 503)
export const HandlerTimeout = createError<[string, string, number]>('FST_SSE_HANDLER_TIMEOUT', '%s of event %s has not finished within %d ms; start long work without awaiting it, or raise "handlerTimeout"', 504)
export const StoreUnavailable = createError('FST_SSE_STORE_UNAVAILABLE', 'The store is unavailable; try again with the same Idempotency-Key', 503)
export const CloseTimeout = createError<[number]>('FST_SSE_CLOSE_TIMEOUT', 'The server is closing, and has not waited for the handler longer than %d ms ("closeTimeout"); the message may have been handled, so send it again only with the same Idempotency-Key', 504)
export const Closing = createError('FST_SSE_CLOSING', 'The server is closing; try again with the same Idempotency-Key', 503)

// Error responses to requests of MCP clients.
export const McpMessageInvalid = createError<[string]>('FST_SSE_MCP_MESSAGE_INVALID', 'The body is not a valid message of MCP: %s', 400)
export const McpSessionIdMissing = createError('FST_SSE_MCP_SESSION_ID_MISSING', 'Send the Mcp-Session-Id header of the response to "initialize"', 400)
export const McpVersionUnsupported = createError<[version: string, supported: string]>('FST_SSE_MCP_VERSION_UNSUPPORTED', 'The MCP-Protocol-Version %s is not supported; send one of %s', 400)
export const McpSessionUnknown = createError('FST_SSE_MCP_SESSION_UNKNOWN', 'There is no such session; send "initialize" to start a new one', 404)
export const McpStreamUnknown = createError('FST_SSE_MCP_STREAM_UNKNOWN', 'The session has no stream with this Last-Event-ID; open a stream without it', 400)
export const McpHostForbidden = createError<[string]>('FST_SSE_MCP_HOST_FORBIDDEN', 'The host %s is not allowed; add it to option "allowedHosts"', 403)
export const McpOriginForbidden = createError<[string]>('FST_SSE_MCP_ORIGIN_FORBIDDEN', 'Pages of the origin %s are not allowed; add it to option "allowedOrigins"', 403)
export const McpMethodNotAllowed = createError('FST_SSE_MCP_METHOD_NOT_ALLOWED', 'Use POST to send messages, GET to open a stream, and DELETE to end the session', 405)
export const McpNotAcceptable = createError<[string]>('FST_SSE_MCP_NOT_ACCEPTABLE', 'Send an Accept header with %s', 406)
export const McpTooManyRequests = createError<[number]>('FST_SSE_MCP_TOO_MANY_REQUESTS', 'A session can have %d requests that run; wait for their responses and try again', 429)
export const McpServerFailed = createError('FST_SSE_MCP_SERVER_FAILED', 'The server has closed the session, or has not responded to "initialize" in time; try again later', 503)
export const McpTooMany = createError<[string]>('FST_SSE_MCP_TOO_MANY', 'There are too many open %s; try again later', 503)

/** Formats a name, or any value in its place, for an error message: a string in quotes, otherwise the type. */
export function quote (name: unknown): string {
  if (name === null) return 'null'
  return typeof name === 'string' ? JSON.stringify(name) : `of the type ${Array.isArray(name) ? 'array' : typeof name}`
}

/** Returns a thrown value as an Error; wraps it if it is not one. */
export function asError (thrown: unknown): Error {
  // Not with `String`, which throws for some objects.
  return thrown instanceof Error ? thrown : new Error(`The app threw ${inspect(thrown, { depth: 0, customInspect: false })}, which is not an Error`)
}
