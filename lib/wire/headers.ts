// Names as Node gives them in `request.headers`.
export const SESSION_ID = 'x-session-id'
export const SESSION_CONNECTED = 'x-session-connected'
export const LAST_EVENT_ID = 'last-event-id'
export const RESUME = 'x-resume'
export const IDEMPOTENCY_KEY = 'idempotency-key'
export const IDEMPOTENT_REPLAYED = 'idempotent-replayed'

/** The response headers that a page of another origin has to be let read. */
export const EXPOSED_HEADERS = 'X-Session-ID, X-Session-Connected, Idempotent-Replayed, Retry-After'

export const STREAM_HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  // no-transform keeps intermediaries from compressing, and so from buffering.
  'cache-control': 'no-cache, no-transform',
  'x-accel-buffering': 'no'
}
