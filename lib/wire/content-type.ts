import type { IncomingMessage } from 'node:http'
import type { Http2ServerRequest } from 'node:http2'
import { finished, type Readable } from 'node:stream'
import type { FastifyRequest, preParsingHookHandler } from 'fastify'
import { MediaTypeUnsupported } from '../errors.js'

/**
 * Returns a hook that refuses all content types but JSON and, if batches are accepted, NDJSON. The parsers of the app for
 * other types, which the routes of the plugin inherit, are then not called. `advice` says what to send instead.
 */
export function requireJson (advice: string, acceptsBatches = false): preParsingHookHandler {
  const supported = acceptsBatches ? /^application\/(?:json|x-ndjson)\s*(?:;|$)/i : /^application\/json\s*(?:;|$)/i
  return (request, _reply, payload, done) => {
    const { 'content-type': type, 'content-length': length = '0' } = request.headers
    // This is the case of most requests.
    if (type === 'application/json' && length !== '0') done(null, payload)
    else if (type !== undefined && !supported.test(type.trim())) done(new MediaTypeUnsupported(advice))
    else if (type?.toLowerCase().includes('ndjson') === true) done(null, payload)
    else {
      detectEmptyBody(request, payload, (error, isEmpty) => {
        if (error === null && type === undefined && !isEmpty) done(new MediaTypeUnsupported(advice))
        else done(error, payload)
      })
    }
  }
}

/** Refuses a body that is not JSON. A DELETE needs none. */
export const requireNoBodyOrJson: preParsingHookHandler = requireJson('no body, or "Content-Type: application/json"')

type Raw = IncomingMessage & Partial<Pick<Http2ServerRequest, 'stream'>>

/**
 * Calls `done` with whether the body of a request is empty. If it is, removes its type and its encoding: many HTTP clients
 * always send a type, and Fastify would parse the empty body as JSON.
 */
function detectEmptyBody ({ raw }: FastifyRequest, payload: Readable, done: (error: Error | null, isEmpty: boolean) => void): void {
  const { headers, stream } = raw as Raw
  const { 'content-length': length, 'transfer-encoding': encoding } = headers
  const finish = (isEmpty: boolean): void => {
    if (isEmpty) {
      delete headers['content-type']
      delete headers['transfer-encoding']
    }
    done(null, isEmpty)
  }
  // A body over HTTP/2 needs neither of these headers.
  if (length !== undefined || (encoding === undefined && stream?.endAfterHeaders !== false)) {
    finish(length === undefined || length === '0')
    return
  }
  // Only the first data, or the end, shows whether the body is empty.
  const onReadable = (): void => {
    payload.off('readable', onReadable)
    removeFinished()
    finish(payload.readableLength === 0)
  }
  const removeFinished = finished(payload, error => {
    payload.off('readable', onReadable)
    if (error) done(error, false)
    else finish(true)
  })
  payload.on('readable', onReadable)
}
