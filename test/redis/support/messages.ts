import type { Letter, Outcome, Session } from '../../../lib/index.js'
import { signal } from '../../support/wait.js'

/** The outcome of a message that was handled. */
export const accepted = (body: string): Outcome => ({ status: 200, headers: {}, body, error: undefined })

export function letter (key: string | undefined, handle: Letter['handle']): Letter {
  return { key, payload: () => 'payload', handle }
}

/** Makes handlers that answer with their names, and records which have run. */
export function recorder () {
  const handled: string[] = []
  const handle = (name: string) => (): Outcome => {
    handled.push(name)
    return accepted(name)
  }
  return { handled, handle }
}

/** Begins to handle a message of key `a`, which lasts until the gate opens. */
export function runOne (session: Session) {
  const gate = signal()
  const running = session.mailbox.deliver(letter('a', async () => {
    await gate.promise
    return accepted('a')
  }))
  return { gate, ...recorder(), running }
}
