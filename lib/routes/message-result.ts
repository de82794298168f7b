import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Session } from '../sessions/session.js'
import type { StoredResponse } from '../store/message-queue.js'
import { MessageRequest, type BatchMessage } from './message-request.js'
import type { FormatError } from './message.js'

/** Returns the JSON of the result of one message, as in the response to a batch. */
export function formatResult ({ response: { status, headers, body }, replayed = false }: { response: StoredResponse, replayed?: boolean }): string {
  const json = body === undefined ? '' : `,"body":${toJson(typeof body === 'string' ? body : Buffer.from(body).toString(), headers['content-type'])}`
  return `{"status":${status}${json}${replayed ? ',"replayed":true' : ''}}`
}

/** Returns a body as JSON. A body that is not JSON becomes a string. */
function toJson (text: string, contentType = ''): string {
  if (/^application\/(.+\+)?json\b/.test(contentType)) {
    try {
      JSON.parse(text)
      return text
    } catch {}
  }
  return JSON.stringify(text)
}

/**
 * Returns a function that formats an error which occurs after the response to a message, with the error handler of the app. It does
 * not keep the data of the message. `timeout` is that of the handler, in milliseconds.
 */
export function createErrorFormatter (session: Session, { event, id }: Pick<BatchMessage, 'event' | 'id'>, timeout: number, { raw, headers, id: requestId, log, routeOptions }: FastifyRequest, { server }: FastifyReply): FormatError {
  const request = { raw, headers, id: requestId, log, routeOptions }
  return async error => {
    const result = await new MessageRequest(request, session, { event, json: undefined, id }, () => { throw error }).dispatch(server, timeout)
    return JSON.parse(formatResult(result)) as object
  }
}
