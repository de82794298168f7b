import type { FastifyInstance, onSendHookHandler } from 'fastify'
import { kSlot, type Sessions } from '../sessions/sessions.js'
import { startStream } from '../stream/response-sink.js'
import { ALLOW_ORIGIN, CACHE_CONTROL, EXPOSE_HEADERS } from '../wire/headers.js'

/**
 * Adds hooks that untrack the reply when its response is sent, that set the headers which all responses of a scope need, and that start streams.
 * `idHeader` is the header with the secret id of a session. Must be called before routes are added.
 */
export function addResponseHooks (scope: FastifyInstance, sessions: Sessions, idHeader: string, exposedHeaders: string): void {
  scope.decorateReply(kSlot, undefined)
  // If an `onSend` hook of the app fails, the one below does not run.
  scope.addHook('onError', (_request, reply, _error, done) => {
    sessions.untrackReply(reply)
    done()
  })
  scope.addHook('onSend', (_request, reply, payload, done) => {
    sessions.untrackReply(reply)
    done(null, payload)
  })
  const setHeaders: onSendHookHandler<unknown> = (request, reply, payload, done) => {
    // Pages of other origins must be able to read the headers of the plugin, also if the app itself has set up CORS.
    if (reply.hasHeader(ALLOW_ORIGIN)) {
      const exposed = reply.getHeader(EXPOSE_HEADERS)
      reply.header(EXPOSE_HEADERS, exposed === undefined ? exposedHeaders : `${String(exposed)}, ${exposedHeaders}`)
    }
    // Shared caches would give one client the session of another: they must neither keep a response nor use it for another
    // request that arrives meanwhile. A response with a session id is `no-store` even if a hook of the app has replaced the header.
    const cacheControl = reply.getHeader(CACHE_CONTROL)
    if (cacheControl === undefined || (reply.hasHeader(idHeader) && !String(cacheControl).includes('no-store'))) reply.header(CACHE_CONTROL, 'no-store')
    if ((reply.statusCode === 429 || reply.statusCode === 503) && !reply.hasHeader('retry-after')) reply.header('retry-after', '1')
    // A connection that is kept alive would delay the close of the server.
    if (sessions.closing && request.raw.httpVersionMajor === 1) reply.header('connection', 'close')
    done(null, payload)
  }
  // These hooks of each route run after all hooks of the app, also those that it adds later or to the route. `startStream` must be the last one.
  scope.addHook('onRoute', route => { route.onSend = [route.onSend ?? [], setHeaders, startStream].flat() })
}
