import { ServerResponse, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { Writable } from 'node:stream'
import type { FastifyBaseLogger, FastifyReply, FastifyRequest } from 'fastify'
import { kSlot } from '../sessions/sessions.js'

/** Creates a response without a connection. What is written to it is dropped. */
export function createInternalResponse (request: IncomingMessage): ServerResponse {
  const response = new ServerResponse(request)
  response.assignSocket(new Writable({ write: (_chunk, _encoding, done) => { done() } }) as Socket)
  // Without this, the response would not emit `close`. Not during `finish`: the socket is still writing, and Node would create an error with
  // a stack trace, which is slow.
  response.on('finish', () => { process.nextTick(() => { response.destroy() }) })
  return response
}

interface ReplyConstructor {
  new (response: ServerResponse, request: FastifyRequest, log: FastifyBaseLogger): FastifyReply
  /** The decorators that are not functions. Fastify does not document this property. */
  readonly props?: ReadonlyArray<{ readonly key: string | symbol }>
}

/** Creates a second reply to a request to which another reply has responded, or will respond. With it, a later result or error of the message goes through the hooks and the error handler of the app, and can be stored. */
export function createSecondReply (first: FastifyReply, status = 200): FastifyReply {
  const { request, log } = first
  // The reply is constructed directly, because Fastify's router responds with 503 while the server closes. Checked with Fastify 5.12.8.
  const Reply = first.constructor as ReplyConstructor
  const second = new Reply(createInternalResponse(request.raw), request, log).code(status)
  // Copies the decorators that earlier hooks may have set, for later hooks; not `kSlot`, which tracks the first reply.
  for (const { key } of new Set(Reply.props)) if (key !== kSlot) Reflect.set(second, key, Reflect.get(first, key))
  return second
}
