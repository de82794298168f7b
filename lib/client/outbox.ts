import { createBackoff, setTimer, type RetrySettings } from './backoff.js'
import { abortReason, onAbort, withAbort } from './abort.js'
import { ClientError, createResponseError, isRequestError, isTransient, parseRetryAfter } from './errors.js'
import type { Welcome } from './connection.js'
import { ResultPromise } from './result-promise.js'
import type { Send } from './send.js'

/** Options of `session.request` in the client: of a message to the server. */
export interface RequestOptions {
  /** Time for which the client repeats the request until it gets a response, in milliseconds. Default: that of the session. `Infinity` turns it off. Error: `TIMEOUT`. */
  timeout?: number | undefined
  /** Cancels the request; the server may have handled it already. Default: none. Error: the reason of the signal. */
  signal?: AbortSignal | undefined
}

export interface OutboxOptions {
  readonly timeout: number
  readonly maxQueued: number
}

/** Receives what happens in an outbox. */
export interface OutboxListener {
  /** A response shows that the server has no stream for the session. */
  onStale (): void
  /** A message failed, and nobody handles its promise. */
  reportError (error: unknown): void
}

/** A message that was passed to an outbox. */
export interface Message {
  readonly event: string
  /** The message as one line of a batch, in JSON. */
  line: string
  /** Set for an answer at its first attempt, so that all its attempts have the same sender. Removed after an attempt that did not reach the server or was refused. */
  sender?: Sender
  /** Number of attempts in which the server may have handled the message. */
  uncertain: number
  /** Settles the message with the result of the handler, and removes it from the queue. */
  readonly resolve: (result: unknown) => void
  readonly reject: (error: unknown) => void
}

/** Identifies a sequence of requests, of which at most one is in progress: the empty string for the messages that are handled in order, `response` for answers, and the message itself for each concurrent message. */
type Sender = '' | typeof RESPONSE_EVENT | Message

/** What {@link Outbox.push} returns. */
export interface QueuedMessage {
  readonly message: Message
  /** Resolves with the result of the handler. */
  readonly result: Promise<unknown>
}

/** The response to one message of a batch. */
interface MessageResponse {
  readonly status: number
  readonly body: unknown
  /** Whether the server handled the message in an earlier attempt and repeats that response. */
  readonly replayed?: boolean
}

/** The event name of the messages that answer requests of the server. */
export const RESPONSE_EVENT = 'response'
// A quarter of the server's default `maxWaitingMessages`, which leaves room for other requests of the session.
const MAX_BATCH_MESSAGES = 64
// In UTF-8 these are at most 768 KiB, less than Fastify's default `bodyLimit` of 1 MiB.
const MAX_BATCH_CHARACTERS = 256 * 1024
// Milliseconds after which the connection of a request counts as dead. If only the handler is slow, the repeated request waits for it.
const REQUEST_TIMEOUT = 15_000
// In characters per millisecond, which is 32 kbit/s for ASCII text. A request with a large body may take as long as its upload at this rate.
// Otherwise, it would never arrive over a slow network: each attempt uploads all of it again. A new stream ends the request earlier.
// Beyond REQUEST_TIMEOUT, a request takes at most half of the session's `timeout`, so that a message that fails does not block the later
// ones until they fail, too.
const MIN_UPLOAD_RATE = 4

/**
 * Sends messages in order, with at most one request at a time. Messages that are queued during a request form the next batch.
 * A message that the server handles concurrently has a request of its own, so that no other message waits for its response.
 * Answers also have requests of their own, because a handler of the server that waits for an answer blocks the messages that are handled in
 * order. If a batch of those messages is about to be sent, the answers are added to it.
 */
export interface Outbox {
  /**
   * Queues a message. `id` is the idempotency key, which is unique within the session. Without one, it is an answer or stops a handler:
   * the server may handle it twice, and it has no timeout and is never refused, because the server would wait, or the handler would continue.
   */
  push (event: string, data: unknown, id?: string, options?: RequestOptions): QueuedMessage
  /** Sends the queue to the session of the welcome event. The caller calls it for each new stream, of the same session or of another one. */
  resume (welcome: Welcome): void
  /** Stops sending until `resume`. `error` says why the stream was lost. The current request may still end. */
  pause (error: unknown): void
  /** Fails all messages, including those that are queued later. */
  close (error: ClientError): void
}

export function createOutbox (send: Send, path: string, options: OutboxOptions, retrySettings: RetrySettings, listener: OutboxListener): Outbox {
  const { maxQueued } = options
  const queue = new Set<Message>()
  // Interrupts the current request, or the delay before the next one, of each sender that is active.
  const interrupts = new Map<Sender, (method: 'retryNow' | 'stop') => void>()
  // The event names of the messages that the server handles concurrently; `undefined` while the outbox is paused.
  let concurrent: readonly string[] | undefined
  let closeError: ClientError | undefined
  // The error of the last request or stream; `undefined` after a batch was accepted. It is the cause of `TIMEOUT`.
  let lastError: unknown
  let currentSessionId = ''
  let batchLimit = MAX_BATCH_MESSAGES

  /** Sends the messages of one sender until there are none. */
  const flush = async (sender: Sender): Promise<void> => {
    if (interrupts.has(sender)) return
    const backoff = createBackoff(retrySettings)
    let controller: AbortController
    interrupts.set(sender, method => {
      controller.abort()
      backoff[method]()
    })
    for (let batch = fillBatch(sender); batch.length > 0; batch = fillBatch(sender)) {
      controller = new AbortController()
      const timer = setTimer(() => { controller.abort() }, Math.max(REQUEST_TIMEOUT, Math.min(options.timeout / 2, countCharacters(batch) / MIN_UPLOAD_RATE)))
      const retryAfter = await post(batch, sender, controller.signal)
      clearTimeout(timer)
      if (retryAfter === undefined) backoff.reset()
      else await backoff.wait(retryAfter)
      // The answers of a batch that was not handled get a request of their own, because the handlers of the other messages may wait for them.
      flush(RESPONSE_EVENT)
    }
    interrupts.delete(sender)
  }

  const senderOf = (message: Message): Sender => message.sender ?? (message.event === RESPONSE_EVENT ? RESPONSE_EVENT : concurrent?.includes(message.event) ? message : '')

  /** Returns the next batch of a sender. If the batch of another sender is given, adds to it the messages of this sender whose sender can still change. */
  const fillBatch = (sender: Sender, batch: Message[] = []): Message[] => {
    const isOther = batch.length > 0
    for (const message of concurrent ? queue : []) {
      if (senderOf(message) !== sender || (isOther && message.sender)) continue
      if (batch.length > 0 && (batch.length >= batchLimit || countCharacters([...batch, message]) > MAX_BATCH_CHARACTERS)) break
      batch.push(message)
    }
    return batch
  }

  /**
   * Posts a batch and settles the messages that have a final response. Resolves with the minimum delay before the next
   * batch, in milliseconds, if the server did not accept all; with `undefined` if no delay is needed. Never rejects.
   */
  const post = async (batch: readonly Message[], sender: Sender, signal: AbortSignal): Promise<number | undefined> => {
    let sent = batch
    try {
      const response = await send(path, {
        method: 'POST',
        headers: { 'x-session-id': currentSessionId, 'content-type': 'application/x-ndjson' },
        body: () => {
          // While the URL and the headers were resolved, the stream may have been lost, messages removed, and answers added or sent with other messages.
          const messages = batch.filter(message => concurrent && queue.has(message) && senderOf(message) === sender)
          sent = messages
          if (sent.length === 0) throw abortReason(signal)
          if (sender === '') fillBatch(RESPONSE_EVENT, messages)
          return sent.map(message => {
            if (message.event === RESPONSE_EVENT) message.sender = sender
            message.uncertain++
            return message.line
          }).join('\n')
        },
        onUnsent: () => { markUnhandled(sent) },
        signal
      })
      const body: unknown = await withAbort(signal, response.json()).catch(() => {})
      // After the abort another session may be current, and the messages are sent again. So a late response does not count.
      return signal.aborted ? undefined : handleResponse(sent, response, body)
    } catch (error) {
      if (sent.length === 0) return undefined
      lastError = error
      if (signal.aborted) return undefined
      return isRequestError(error) ? rejectAll(sent, error) : 0
    }
  }

  /** Settles the messages that have a final response. Returns what {@link post} resolves with. */
  const handleResponse = (batch: readonly Message[], response: Response, body: unknown): number | undefined => {
    const { ok, status, headers } = response
    let retryAfter: number | undefined
    const responseToAll: MessageResponse = { status, body }
    lastError = createResponseError(responseToAll)
    // Not every server lets pages of other origins read the header.
    if (headers.get('x-session-connected') === 'false') listener.onStale()
    if (ok) {
      // The response is incomplete, or a proxy or captive portal sent it.
      if (!Array.isArray(body) || body.length !== batch.length) return 0
      batchLimit = Math.min(MAX_BATCH_MESSAGES, batchLimit * 2)
      lastError = undefined
    } else {
      // The server did not handle the messages. After another 5xx status, or 503 without a code of the server, a proxy may have lost the response of the server.
      if (status < 500 || (status === 503 && /^FST_SSE_/.test((lastError as ClientError).code))) markUnhandled(batch)
      if (isTransient(status)) return parseRetryAfter(response)
      // One message is invalid, or the batch is too large. The server handled none of them.
      if (batch.length > 1 && (status === 400 || status === 413)) {
        batchLimit = batch.length >> 1
        return undefined
      }
    }
    batch.forEach((message, index) => {
      const result = ok ? (body as MessageResponse[])[index] as MessageResponse : responseToAll
      const error = createResponseError(result)
      const isUnknown = error.code === 'FST_SSE_SESSION_UNKNOWN'
      if (ok && result.status < 400) {
        // The server sends this status and body when the handler returns nothing.
        message.resolve(result.status === 202 && JSON.stringify(result.body) === '{"status":"accepted"}' ? undefined : result.body)
      } else if ((isUnknown || result.status === 429 || result.status === 503) && !result.replayed) {
        // Usually the server did not handle the message. If a handler chose this status or code, the response to the repeated message has `replayed`.
        if (ok) markUnhandled([message])
        lastError = error
        retryAfter = 0
        // The next stream shows whether the session continues.
        if (isUnknown) listener.onStale()
      } else {
        message.reject(error)
      }
    })
    return retryAfter
  }

  return {
    push (event, data, id, { timeout = id ? options.timeout : Infinity, signal } = {}) {
      let message!: Message
      let timer: ReturnType<typeof setTimeout> | undefined
      let removeAbort: (() => void) | undefined
      const result = new ResultPromise<unknown>((resolve, reject) => {
        const withCleanup = <T>(settle: (value: T) => void) => (value: T): void => {
          queue.delete(message)
          clearTimeout(timer)
          removeAbort?.()
          settle(value)
        }
        message = { event, line: '', uncertain: 0, resolve: withCleanup(resolve), reject: withCleanup(reject) }
        if (closeError) throw closeError
        if (signal?.aborted) throw abortReason(signal)
        if (id && queue.size >= maxQueued) throw new ClientError('QUEUE_FULL', `Exceeds maxQueued (${maxQueued})`)
        message.line = JSON.stringify({ event, data, id })
        queue.add(message)
        timer = setTimer(() => {
          message.reject(new ClientError('TIMEOUT', `No response in ${timeout} ms`, { cause: lastError }))
        }, timeout)
        removeAbort = signal && onAbort(signal, message.reject)
        flush(senderOf(message))
      })
      // An error is not reported if the app has aborted the message, or if the session is closed, because the event `close` reports that.
      result.onUnhandled(error => { if (!signal?.aborted && error !== closeError) listener.reportError(error) })
      return { message, result }
    },
    resume ({ sessionId, concurrent: names = [] }) {
      if (sessionId !== currentSessionId) {
        // An idempotency key is unique within one session. Another session would handle a message again that the first has handled.
        for (const { uncertain, reject } of queue) {
          if (uncertain > 0) reject(new ClientError('RESET'))
        }
      }
      currentSessionId = sessionId
      // The server handles the message `part`, which stops a handler, concurrently.
      concurrent = [...names, 'part']
      // The connection of the current request may be lost, like that of the previous stream. Repeating the request is cheap.
      for (const interrupt of interrupts.values()) interrupt('retryNow')
      for (const message of queue) flush(senderOf(message))
    },
    pause (error) {
      concurrent = undefined
      lastError = error
    },
    close (error) {
      closeError = error
      for (const interrupt of interrupts.values()) interrupt('stop')
      rejectAll(queue, error)
    }
  }
}

function countCharacters (batch: readonly Message[]): number {
  return batch.reduce((sum, { line }) => sum + line.length, 0)
}

/** Records that the last attempt to send the messages did not reach a handler. */
function markUnhandled (batch: readonly Message[]): void {
  for (const message of batch) {
    message.uncertain--
    delete message.sender
  }
}

function rejectAll (messages: Iterable<Message>, error: ClientError): undefined {
  for (const { reject } of messages) reject(error)
}
