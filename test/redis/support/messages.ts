import type { QueuedMessage, StoredResponse, Session } from '../../../lib/index.js'
import { kInternals } from '../../../lib/sessions/session.js'
import type { RedisServer } from '../../support/redis-server.js'
import { deferred } from '../../support/wait.js'

/** Creates the response of a handler that succeeds. */
export const createResponse = (body: string): StoredResponse => ({ status: 200, headers: {}, body })

/** Creates a message. All messages have the same fingerprint. */
export function createMessage (key: string | undefined, handle: QueuedMessage['handle']): QueuedMessage {
  return { key, fingerprint: () => 'payload', handle }
}

/** Creates handlers that return their name, and records which handlers have run. */
export function recordHandlers () {
  const handled: string[] = []
  const handle = (name: string) => (): StoredResponse => {
    handled.push(name)
    return createResponse(name)
  }
  return { handled, handle }
}

/** Starts a message with key `a`, whose handler runs until the gate is opened. `started` resolves when the handler runs. */
export function startGatedMessage (session: Session) {
  const gate = deferred()
  const started = deferred()
  const running = session[kInternals].messageQueue.enqueue(createMessage('a', async () => {
    started.resolve()
    await gate.promise
    return createResponse('a')
  }))
  return { gate, started: started.promise, ...recordHandlers(), running }
}

/** Reads the items of the queue of a session, the first one first. */
export async function readQueue (redis: RedisServer, sessionId: string): Promise<string[]> {
  const first = await redis.sendCommand('HGET', `{sse}:s:${sessionId}`, 'first') as string | null
  return [...first === null ? [] : [first], ...await redis.sendCommand('LRANGE', `{sse}:s:${sessionId}:queue`, '0', '-1') as string[]]
}
