import { asError, statusOf, StoreUnavailable } from './errors.js'
import { chain } from './promises.js'
import type { Outcome } from './store/mailbox.js'
import type { Awaitable } from './store/store.js'

/**
 * How a handler answers one message. It is not Fastify's Reply, for a message may have come in a batch with others,
 * and its answer may be given again to a repeat.
 */
export class UpwardReply {
  statusCode: number | undefined
  /** Whether `send` was called. */
  sent = false
  #headers: Record<string, string> = {}
  #body: unknown

  /** Sets the status; default 200 with a body, 202 without. */
  code (status: number): this {
    this.statusCode = status
    return this
  }

  /** Sets a header of the answer; it is lost where the message came in a batch. */
  header (name: string, value: string): this {
    this.#headers[name] = value
    return this
  }

  /** Sets the body, as returning it does. */
  send (body?: unknown): this {
    this.sent = true
    this.#body = body
    return this
  }

  /** @internal */
  outcome (returned: unknown): Outcome {
    const body = this.sent ? this.#body : returned === this ? undefined : returned
    const nothing = body === undefined && !this.sent
    const status = this.statusCode ?? (nothing ? 202 : 200)
    return { status, headers: this.#headers, body: nothing && status === 202 ? { status: 'accepted' } : body, error: undefined }
  }
}

/** Runs a handler and makes an outcome of what it returns or throws. */
export function answer (handler: (reply: UpwardReply) => unknown): Awaitable<Outcome> {
  const reply = new UpwardReply()
  try {
    const outcome = chain(handler(reply), returned => reply.outcome(returned))
    return outcome instanceof Promise ? outcome.catch(failure) : outcome
  } catch (thrown) {
    return failure(thrown)
  }
}

function failure (thrown: unknown): Outcome {
  const error = asError(thrown)
  // Safe to repeat is what this error promises, so it must not become the answer to repeats.
  if (error instanceof StoreUnavailable) throw error
  return { status: statusOf(error), headers: {}, body: undefined, error }
}
