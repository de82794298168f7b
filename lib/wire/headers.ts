// In lower case, as in `request.headers`.
export const SESSION_ID = 'x-session-id'
export const SESSION_CONNECTED = 'x-session-connected'
export const LAST_EVENT_ID = 'last-event-id'
export const RESUME = 'x-resume'
export const IDEMPOTENCY_KEY = 'idempotency-key'
export const IDEMPOTENT_REPLAYED = 'idempotent-replayed'
export const ALLOW_ORIGIN = 'access-control-allow-origin'
export const EXPOSE_HEADERS = 'access-control-expose-headers'
export const CACHE_CONTROL = 'cache-control'
export const CONTENT_ENCODING = 'content-encoding'
export const VARY = 'vary'

/** Response headers that CORS must expose to pages of other origins. */
export const EXPOSED_HEADERS = 'X-Session-ID, X-Session-Connected, Idempotent-Replayed, Retry-After'

export const STREAM_HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  // `no-transform` prevents proxies from compressing the stream, which would buffer it.
  'cache-control': 'no-store, no-transform',
  // Turns off the buffer of nginx.
  'x-accel-buffering': 'no'
}
