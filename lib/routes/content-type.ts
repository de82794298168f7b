import type { IncomingMessage } from 'node:http'
import type { Http2ServerRequest } from 'node:http2'
import { finished, type Readable } from 'node:stream'
import type { FastifyRequest, preParsingHookHandler } from 'fastify'
import { MediaTypeUnsupported } from '../errors.js'

/**
 * Returns a hook that refuses all content types but JSON and, if batches are accepted, NDJSON. The parsers of the app for
 * other types, which the routes of the plugin inherit, are then not called.
 */
export function requireJson (acceptsBatches: boolean): preParsingHookHandler {
  const supported = acceptsBatches ? /^application\/(?:json|x-ndjson)\s*(?:;|$)/i : /^application\/json\s*(?:;|$)/i
  return (request, _reply, payload, done) => {
    const type = request.headers['content-type']
    if (type !== undefined && !supported.test(type.trim())) done(new MediaTypeUnsupported())
    else if (type?.toLowerCase().includes('ndjson') === true) done(null, payload)
    else {
      checkBody(request, payload, (error, isEmpty) => {
        if (error === null && type === undefined && !isEmpty) done(new MediaTypeUnsupported())
        else done(error, payload)
      })
    }
  }
}

/** A hook that removes the content type of a request without a body, because many HTTP clients always send one. Fastify would parse the empty body as JSON. */
export const removeTypeWithoutBody: preParsingHookHandler = (request, _reply, payload, done) => {
  checkBody(request, payload, error => { done(error, payload) })
}

type Raw = IncomingMessage & Partial<Pick<Http2ServerRequest, 'stream'>>

/** Calls `done` with whether the body of a request is empty. If it is, removes the headers that describe it. */
function checkBody ({ raw }: FastifyRequest, payload: Readable, done: (error: Error | null, isEmpty: boolean) => void): void {
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
