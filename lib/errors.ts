import createError from '@fastify/error'
import { inspect } from 'node:util'

/**
 * Every error this plugin raises, in one table. The `code` of each is stable; the message tells the remedy.
 * Those with a status below 500 are the requester's to mend, the others the server's.
 */

// At boot.
export const OptionInvalid = createError<[string]>('FST_SSE_OPTION_INVALID', '%s', 500, TypeError)
export const HookInvalid = createError<[string]>('FST_SSE_HOOK_INVALID', '%s', 500, TypeError)
export const HandlerInvalid = createError<[string]>('FST_SSE_HANDLER_INVALID', '%s', 500, TypeError)

// In the server's own calls.
export const EventInvalid = createError<[string]>('FST_SSE_EVENT_INVALID', 'Event name %s cannot be used: a name is a well-formed, non-empty string without CR, LF and NUL, and is none of welcome, gap, close, replaced, open, error, resume, disconnect and reset', 500, TypeError)
export const DataInvalid = createError<[string]>('FST_SSE_DATA_INVALID', 'The data of an event must be serializable as JSON: %s', 500, TypeError)
export const EntryTooLarge = createError<[number, number]>('FST_SSE_ENTRY_TOO_LARGE', 'An event of %d bytes does not fit a log of %d bytes; split it, or raise the "bytes" of option "log" (sessions) or "channelLog" (channels and broadcasts)', 500, RangeError)
export const SessionOver = createError('FST_SSE_SESSION_OVER', 'The session is over: nothing can be sent to it; stop producing when session.signal aborts', 410)

// To requests.
export const NotAcceptable = createError('FST_SSE_NOT_ACCEPTABLE', 'This resource is an event stream: send "Accept: text/event-stream"', 406)
export const SessionIdMissing = createError('FST_SSE_SESSION_ID_MISSING', 'Send the X-Session-ID header, with the sessionId that the welcome event told', 400)
export const SessionUnknown = createError('FST_SSE_SESSION_UNKNOWN', 'No such session: open a stream to get one', 404)
export const EventUnknown = createError<[string]>('FST_SSE_EVENT_UNKNOWN', 'No handler is registered for event %s', 404)
export const TextMissing = createError('FST_SSE_TEXT_MISSING', 'The echo needs a JSON body with a string "text"', 400)
export const BatchMalformed = createError<[number, string]>('FST_SSE_BATCH_MALFORMED', 'Line %d of the batch is not a message: %s; nothing of the batch was handled', 400)
export const BatchTooLarge = createError<[number, number]>('FST_SSE_BATCH_TOO_LARGE', 'A batch of %d messages exceeds the %d that a session may have waiting; send smaller batches', 413)
export const IdempotencyKeyInvalid = createError('FST_SSE_IDEMPOTENCY_KEY_INVALID', 'An Idempotency-Key is 1 to 255 printable ASCII characters, and of one message: the lines of a batch have an "id" each', 400)
export const IdempotencyKeyReused = createError('FST_SSE_IDEMPOTENCY_KEY_REUSED', 'This Idempotency-Key came with another payload before; use a new key for a new message', 422)
export const DataTooDeep = createError('FST_SSE_DATA_TOO_DEEP', 'The JSON of a message with an Idempotency-Key is nested too deep; make it flatter', 400)
export const TooManyWaiting = createError<[number]>('FST_SSE_TOO_MANY_WAITING', 'The session has %d messages waiting; wait for their answers and try again', 429)
export const StoreUnavailable = createError('FST_SSE_STORE_UNAVAILABLE', 'The store does not answer; try again, with the same Idempotency-Key', 503)
export const Closing = createError('FST_SSE_CLOSING', 'The server is closing; try again, with the same Idempotency-Key', 503)

/** The status that Fastify answers an error with. */
export function statusOf ({ statusCode, status }: Error & { statusCode?: unknown, status?: unknown }): number {
  for (const given of [statusCode, status]) if (typeof given === 'number' && given >= 400 && given <= 599) return given
  return 500
}

/** What the app has thrown, as an error where it is none. */
export function asError (thrown: unknown): Error {
  // Not by String, for which an object may have no answer.
  return thrown instanceof Error ? thrown : new Error(`The app threw ${inspect(thrown, { depth: 0, customInspect: false })}, which is no Error`)
}
