import type { Awaitable } from '../awaitable.js'

/** The response to a message, as it is kept for repeats. An error of the handler is a response, too: the message was handled. */
export interface StoredResponse {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: unknown
  readonly error: Error | undefined
}

/** A message as the queue sees it. */
export interface QueuedMessage {
  /** The idempotency key, if the message has one. */
  readonly key: string | undefined
  /** A hash of event and data. A repeat must have the same fingerprint as the first message with its key. */
  readonly fingerprint: () => string
  /** Runs the handler. It throws or rejects if the message is refused; a repeat is then a new attempt. */
  readonly handle: () => Awaitable<StoredResponse>
}

export interface QueueResult {
  readonly response: StoredResponse
  /** Whether this is the response to an earlier message with the same key. */
  readonly replayed: boolean
}

/**
 * The upward messages of one session. They MUST be handled one at a time across all processes, in order of arrival, and
 * once per key: a repeat receives the response to the first message, and waits for it if that is still being handled. A
 * refused message leaves no response. If the log and the responses of a session are lost, the message MUST be refused as
 * for an unknown session.
 */
export interface MessageQueue {
  /** Resolves with the response to the message, or to an earlier one with its key. Throws or rejects if the message is refused. */
  enqueue (message: QueuedMessage): Awaitable<QueueResult>
  /** Adds several messages, with no message of another request between them. Throws or rejects if the queue has no room for all; otherwise each message settles on its own. */
  enqueueAll (messages: readonly QueuedMessage[]): Awaitable<Array<Promise<QueueResult>>>
}
