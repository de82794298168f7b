import { hash } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { andThen } from '../awaitable.js'
import { DataTooDeep, SessionUnknown } from '../errors.js'
import type { Message } from '../sessions/hooks.js'
import type { Session } from '../sessions/session.js'
import type { Sessions } from '../sessions/sessions.js'
import { runHandler } from '../sessions/upward-reply.js'
import type { QueuedMessage } from '../store/message-queue.js'
import { estimateMemory } from './estimate-memory.js'

/** Creates the {@link QueuedMessage} of a message: its key and fingerprint, which identify a repeat, and a function that handles it. */
export function toQueuedMessage (sessions: Sessions, session: Session, message: Message, request: FastifyRequest): QueuedMessage {
  return {
    key: message.id,
    fingerprint: () => fingerprint(message),
    size: () => estimateMemory(message.data),
    handle: () => {
      // The session may have been closed while the message waited.
      if (session.closed) throw new SessionUnknown()
      return andThen(sessions.handlers.prepare(session, message, request), runHandler)
    }
  }
}

/** Returns a hash of event and data, which detects that a key is reused for another message. Throws FST_SSE_DATA_TOO_DEEP. */
function fingerprint ({ event, data }: Message): string {
  let json: string
  try {
    json = JSON.stringify([event, data])
  } catch {
    // JSON.parse accepts deeper nesting than JSON.stringify.
    throw new DataTooDeep()
  }
  return hash('sha256', json, 'base64')
}

/** Whether a value is an idempotency key: 1 to 255 printable ASCII characters, of which the first is not a space. */
export const isIdempotencyKey = (key: unknown): key is string => typeof key === 'string' && /^[\x21-\x7e][\x20-\x7e]{0,254}$/.test(key)
