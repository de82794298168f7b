import type { FastifyReply } from 'fastify'
import { noop } from '../awaitable.js'
import { logSafely } from '../safe-log.js'
import { kInternals, type Session } from '../sessions/session.js'
import type { StreamAttachment } from '../sessions/session-internals.js'
import type { Sessions } from '../sessions/sessions.js'
import { StreamPayload, type ResponseSink } from '../stream/response-sink.js'
import { endWithoutStream, StreamEncoder } from '../stream/shared-compression.js'
import { acceptsGzip } from '../wire/accept.js'
import { frameRetry } from '../wire/frame.js'
import { CONTENT_ENCODING, STREAM_HEADERS, VARY } from '../wire/headers.js'
import { getHeader } from './require-session.js'

/** The part of a {@link StreamAttachment} that is known before the call of the store's `attach`. */
export interface AttachOptions extends Omit<StreamAttachment, 'newestPosition' | 'logger' | 'encoder'> {
  readonly sink: ResponseSink
  /** Response headers, in addition to those of every stream. */
  readonly headers: Readonly<Record<string, string>>
  /** Releases the session, because the response does not become a stream: the client has disconnected, a timeout has passed, or a hook has failed. */
  onAbort (): void
  /** The response has become the stream of the session. */
  onAttach? (): void
}

/**
 * Acquires the right to stream a session from the store, and sends the response that becomes the stream. Resolves with false if the
 * session does not exist any more: then the caller responds. The route must have the hook `startStream`, and track the reply.
 */
export async function attachStream (sessions: Sessions, session: Session, options: AttachOptions, reply: FastifyReply): Promise<boolean> {
  const { sink, cursor, welcome, resumed, requestedAt } = options
  const { log: logger } = reply.request
  const onAbort = (): void => { options.onAbort() }
  let newestPosition: number | undefined
  try {
    if (!sink.closed) newestPosition = await sessions.acquireStream(session, cursor, requestedAt)
  } finally {
    // `onAbort` is called only after the store's `attach` has settled, because the session must not be released while that is pending.
    if (sink.closed) onAbort()
    else sink.listener = { onDrain: noop, onClose: onAbort, onError: error => { logSafely(logger, 'error', { err: error }, 'a response failed') } }
  }
  // If another response is being sent, for example an error of Fastify's `handlerTimeout`, `onAbort` is called when that has ended.
  if (sink.closed || !sessions.canSend(reply)) return true
  if (newestPosition === undefined) return false
  let encoder: StreamEncoder | undefined
  const payload = new StreamPayload(sink, () => {
    if (!sessions.closing) {
      // Lists the properties instead of spreading `options`, which V8 does slowly if the objects have several shapes.
      if (session[kInternals].setStream({ sink, cursor, newestPosition, welcome, resumed, requestedAt, logger, encoder })) options.onAttach?.()
      return
    }
    // The server began to close while the `onSend` hooks ran. `close` waits for this response, so it must not become a stream.
    endWithoutStream(sink, encoder, frameRetry(sessions.createRetryDelay()))
    if (!resumed) session.close('shutdown')
  })
  reply.headers(STREAM_HEADERS).headers(options.headers)
  payload.send(reply, reply => {
    encoder = createEncoder(sessions, reply)
    return encoder === undefined ? {} : { [CONTENT_ENCODING]: 'gzip' }
  })
  return true
}

/** Creates the encoder of a stream that is compressed, and sets the header `Vary`. */
function createEncoder ({ compression }: Sessions, reply: FastifyReply): StreamEncoder | undefined {
  if (compression === undefined) return undefined
  const vary = reply.getHeader(VARY)
  reply.header(VARY, vary === undefined ? 'Accept-Encoding' : `${String(vary)}, Accept-Encoding`)
  // A hook of the app may have chosen another encoding.
  if (!acceptsGzip(getHeader(reply.request, 'accept-encoding')) || reply.hasHeader(CONTENT_ENCODING)) return undefined
  return new StreamEncoder(compression)
}
