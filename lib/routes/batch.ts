import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { toPromise } from '../awaitable.js'
import { BatchMalformed, BatchTooLarge, IdempotencyKeyInvalid } from '../errors.js'
import { kStream, type Session } from '../sessions/session.js'
import type { Sessions } from '../sessions/sessions.js'
import type { QueuedMessage, QueueResult, StoredResponse } from '../store/message-queue.js'
import { RESPONSE_EVENT } from '../wire/frame.js'
import { IDEMPOTENCY_KEY } from '../wire/headers.js'
import { fingerprint, isIdempotencyKey } from '../wire/idempotency-key.js'
import { LINE_FEED, parseLine, skipSpace } from './json-line.js'
import { MessageRequest, type BatchMessage, type DispatchResult, type HandleRequest } from './message-request.js'
import { createErrorReporter, formatResult } from './message-result.js'
import { getTimeLimit, handleMessage, waitForResult } from './message.js'
import { getHeader } from './require-session.js'

/** A body of the type `application/x-ndjson`: several messages of one session, one on each line. */
export class Batch {
  // Private, so that no hook of the app takes it for data of a message.
  readonly #bytes: Buffer

  constructor (bytes: Buffer) {
    this.#bytes = bytes
  }

  /** Reads the messages, but does not parse their data. A line without an `event` gets the default one. Throws FST_SSE_BATCH_MALFORMED or FST_SSE_BATCH_TOO_LARGE. */
  readMessages (defaultEvent: string, max: number): BatchMessage[] {
    const bytes = this.#bytes
    const messages: BatchMessage[] = []
    let end = 0
    for (let start = skipSpace(bytes, 0); start < bytes.length; start = skipSpace(bytes, end)) {
      if (messages.length === max) throw new BatchTooLarge(max)
      const lineFeed = bytes.indexOf('\n', start)
      end = lineFeed < 0 ? bytes.length : lineFeed
      const message = toMessage(bytes.subarray(start, end), defaultEvent)
      if (typeof message === 'string') throw new BatchMalformed(lineAt(bytes, start), message)
      messages.push(message)
    }
    return messages
  }
}

/** Adds the parser for batches to a scope. */
export function addBatchParser (scope: FastifyInstance): void {
  scope.addContentTypeParser('application/x-ndjson', { parseAs: 'buffer' }, (_request, body, done) => { done(null, new Batch(body as Buffer)) })
}

/** Returns the message of a line, or what is wrong with the line. */
function toMessage (line: Buffer, defaultEvent: string): BatchMessage | string {
  const members = parseLine(line)
  if (members === undefined) return 'it is not a JSON object'
  const { event = defaultEvent, id, data: json } = members
  if (typeof event !== 'string') return 'its "event" is not a string'
  if (id !== undefined && !isIdempotencyKey(id)) return 'its "id" is not 1 to 255 printable ASCII characters'
  return { event, json, id }
}

/** Returns the number of the line at an index. Without copies of the lines, of which there may be a million. */
function lineAt (bytes: Buffer, index: number): number {
  let line = 1
  for (let at = 0; at < index; at++) if (bytes[at] === LINE_FEED) line++
  return line
}

/** The error of a message that was refused, for the queue. Contains the response. */
class Refusal extends Error {
  readonly response: StoredResponse

  constructor (response: StoredResponse) {
    super('The message was refused')
    this.response = response
  }
}

/** Whether a client repeats a message that was refused with this response. */
function isRetryable ({ status }: StoredResponse): boolean {
  return status === 429 || status === 503
}

/** Handles the messages of a batch in order, except concurrent ones. Resolves with the response body: one result per message. */
export async function handleBatch (sessions: Sessions, session: Session, batch: Batch, defaultEvent: string, request: FastifyRequest, reply: FastifyReply): Promise<string> {
  // One key cannot identify several messages.
  if (getHeader(request, IDEMPOTENCY_KEY) !== undefined) throw new IdempotencyKeyInvalid()
  const messages = batch.readMessages(defaultEvent, Math.max(1, sessions.settings.maxWaitingMessages))
  const dispatch = (message: BatchMessage, handle: HandleRequest): Promise<DispatchResult> => new MessageRequest(request, session, message, handle).dispatch(reply.server, getTimeLimit(sessions, message.event))
  let retryableRefusal: Refusal | undefined
  const started = new Set<BatchMessage>()
  const toQueued = (message: BatchMessage): QueuedMessage => {
    const { event, id } = message
    const isConcurrent = sessions.handlers.isConcurrent(event)
    return {
      key: id,
      isConcurrent,
      fingerprint: () => fingerprint(event, message.json?.toString()),
      size: () => message.json?.length ?? 0,
      handle: async () => {
        started.add(message)
        // The client repeats the message that was refused. Those after it must not be handled before it.
        if (retryableRefusal !== undefined && !isConcurrent) throw retryableRefusal
        const { response, isHandled } = await dispatch(message, ({ body: data }, reply) => handleMessage(sessions, session, { event, data, id }, reply, () => createErrorReporter(session, message, getTimeLimit(sessions, event), request, reply)))
        if (isHandled) return response
        const refusal = new Refusal(response)
        if (isRetryable(response) && !isConcurrent) retryableRefusal = refusal
        throw refusal
      }
    }
  }
  const format = (message: BatchMessage, result: Promise<QueueResult>): Promise<string> => result.then(formatResult, async (error: unknown) => {
    if (error instanceof Refusal) return formatResult(error)
    // The queue has refused the message. Fastify makes the response from the error.
    return formatResult(await dispatch(message, () => { throw error }))
  })
  const isAnswer = ({ event }: BatchMessage): boolean => event === RESPONSE_EVENT
  // Not in the queue, where handlers may wait for these answers.
  const answers = messages.map(message => isAnswer(message) ? format(message, toPromise(toQueued(message).handle).then(response => ({ response, replayed: false }))) : undefined)
  const others = messages.filter(message => !isAnswer(message))
  const queueResults = others.length === 0 ? [] : await session[kStream].messageQueue.enqueueAll(others.map(toQueued))
  const results = await Promise.all(messages.map((message, index) => answers[index] ?? format(message, waitForResult(sessions, session, queueResults.shift() as Promise<QueueResult>, () => started.has(message)))))
  reply.type('application/json; charset=utf-8')
  return `[${results.join()}]`
}
