import type { QueuedMessage, StoredResponse, Session } from '../../../lib/index.js'
import { kStream } from '../../../lib/sessions/session.js'
import { signal } from '../../support/wait.js'

/** The outcome of a message that was handled. */
export const accepted = (body: string): StoredResponse => ({ status: 200, headers: {}, body, error: undefined })

export function letter (key: string | undefined, handle: QueuedMessage['handle']): QueuedMessage {
  return { key, fingerprint: () => 'payload', handle }
}

/** Makes handlers that answer with their names, and records which have run. */
export function recorder () {
  const handled: string[] = []
  const handle = (name: string) => (): StoredResponse => {
    handled.push(name)
    return accepted(name)
  }
  return { handled, handle }
}

/** Begins to handle a message of key `a`, which lasts until the gate opens. */
export function runOne (session: Session) {
  const gate = signal()
  const running = session[kStream].messageQueue.enqueue(letter('a', async () => {
    await gate.promise
    return accepted('a')
  }))
  return { gate, ...recorder(), running }
}
