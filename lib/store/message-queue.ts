import type { Awaitable } from '../awaitable.js'

/**
 * The response to a message, which is kept for repeats of the message. It is serialized when the message is handled, so that
 * a repeat gets the same bytes. The response to an error of the handler is kept as well, because the message was handled.
 */
export interface StoredResponse {
  readonly status: number
  /** Headers that the handler has set, and the content type. Names are in lower case. */
  readonly headers: Readonly<Record<string, string>>
  /** The body; `undefined` if there is none. */
  readonly body: string | Uint8Array | undefined
}

/** A message in the form that a queue needs. */
export interface QueuedMessage {
  /** The idempotency key, if the message has one. */
  readonly key: string | undefined
  /** Returns a hash of event and data. A repeat must have the same fingerprint as the first message with its key. */
  readonly fingerprint: () => string
  /** Returns about how many bytes of memory the message takes while it waits. Without it, the message counts as 0 bytes. */
  readonly size?: () => number
  /** Whether the message is handled at once, without waiting for others; others do not wait for it either. */
  readonly isConcurrent?: boolean
  /**
   * Runs the handler. Throws or rejects if the message is refused. A repeat of a refused message is handled as a new message. The hooks
   * and validators before the handler may take any time, so a store of several processes passes `assertMayStart`, which is called
   * directly before the handler. It throws StoreUnavailable if another process may handle the message by then.
   */
  readonly handle: (assertMayStart?: () => void) => Awaitable<StoredResponse>
}

export interface QueueResult {
  readonly response: StoredResponse
  /** Whether this is the response to an earlier message with the same key. */
  readonly replayed: boolean
}

/**
 * The queue of the messages that the client of one session sends. Messages MUST be handled one at a time across all processes, in
 * order of arrival, except concurrent ones, which MUST be handled at once. Of the messages with one key, only the first MUST be
 * handled. A repeat receives its response, and waits for it while the first is being handled. A refused message leaves no
 * response. A store that has dropped a response because of a limit MUST reject repeats with ResponseDropped while it keeps the
 * key. If the store has lost the log and the responses of a session, it MUST refuse the messages with SessionUnknown.
 */
export interface MessageQueue {
  /** Adds a message. Resolves with the response to it, or to an earlier message with its key. Throws or rejects if the message is refused. */
  enqueue (message: QueuedMessage): Awaitable<QueueResult>
  /**
   * Adds several messages, with no message of another request between them. Throws or rejects with TooManyWaiting if the queue has
   * no room for all of them. Otherwise, each message has a promise of its own, as from `enqueue`. A store MAY instead refuse
   * single messages of a batch that contains concurrent ones. While a repeat that is not concurrent waits for its response, the later
   * messages of the batch that are not concurrent MUST NOT be handled. If the message whose response the repeat waits for comes after
   * the batch in the queue, the store MUST refuse them with StoreUnavailable.
   */
  enqueueAll (messages: readonly QueuedMessage[]): Awaitable<Array<Promise<QueueResult>>>
}
