import type { IncomingMessage } from 'node:http'
import type { Http2ServerRequest } from 'node:http2'
import type { preParsingHookHandler } from 'fastify'
import { MediaTypeUnsupported } from '../errors.js'

/**
 * Returns a hook that refuses all content types but JSON and, if batches are accepted, NDJSON. The parsers of the app for
 * other types, which the routes of the plugin inherit, are then not called.
 */
export function requireJson (acceptsBatches: boolean): preParsingHookHandler {
  const supported = acceptsBatches ? /^application\/(?:json|x-ndjson)\s*(?:;|$)/i : /^application\/json\s*(?:;|$)/i
  return (request, reply, payload, done) => {
    const type = request.headers['content-type']
    if (type === undefined ? !hasNoBody(request.raw) : !supported.test(type.trim())) done(new MediaTypeUnsupported())
    else if (type?.toLowerCase().includes('ndjson') === true) done(null, payload)
    else removeTypeWithoutBody.call(request.server, request, reply, payload, done)
  }
}

/** A hook that removes the content type of a request without a body, because many HTTP clients always send one. Fastify would parse the empty body as JSON. */
export const removeTypeWithoutBody: preParsingHookHandler = (request, _reply, payload, done) => {
  if (hasNoBody(request.raw)) delete request.headers['content-type']
  done(null, payload)
}

function hasNoBody (request: IncomingMessage & Partial<Pick<Http2ServerRequest, 'stream'>>): boolean {
  const { 'content-length': length, 'transfer-encoding': encoding } = request.headers
  // A body over HTTP/2 needs neither of these headers.
  return length === '0' || (length === undefined && encoding === undefined && request.stream?.endAfterHeaders !== false)
}
