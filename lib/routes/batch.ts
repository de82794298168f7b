import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { noop } from '../awaitable.js'
import { BatchMalformed, BatchTooLarge, IdempotencyKeyInvalid } from '../errors.js'
import { kInternals, type Session } from '../sessions/session.js'
import type { Sessions } from '../sessions/sessions.js'
import type { QueuedMessage, QueueResult, StoredResponse } from '../store/message-queue.js'
import { RESPONSE_EVENT } from '../wire/frame.js'
import { IDEMPOTENCY_KEY } from '../wire/headers.js'
import { fingerprint, isIdempotencyKey, normalizeJson } from '../wire/idempotency-key.js'
import { LINE_FEED, parseLine, skipSpace } from './json-line.js'
import { MessageRequest, type BatchMessage, type DispatchResult, type RequestHandler } from './message-request.js'
import { formatResult } from './message-result.js'
import { getHandlerTimeout, handleMessage, waitForResult } from './message.js'
import { getHeader } from './require-session.js'

/** Key of the batch on a request. Hooks of the app may replace the body, for example with a copy. */
export const kBatch = Symbol('batch')

export interface RequestWithBatch {
  [kBatch]?: Batch | undefined
}

/** A body of the type `application/x-ndjson`: several messages of one session, one on each line. */
export class Batch {
  // This field is private, so that no hook of the app takes it for the data of a message.
  readonly #bytes: Buffer

  constructor (bytes: Buffer) {
    this.#bytes = bytes
  }

  /** Size of the body, in bytes. */
  get size (): number {
    return this.#bytes.length
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
      if (typeof message === 'string') throw new BatchMalformed(findLineNumber(bytes, start), message)
      messages.push(message)
    }
    return messages
  }
}

/** Adds the parser for batches to a scope. */
export function addBatchParser (scope: FastifyInstance): void {
  scope.addContentTypeParser('application/x-ndjson', { parseAs: 'buffer' }, (request: FastifyRequest & RequestWithBatch, body, done) => {
    request[kBatch] = new Batch(body as Buffer)
    done(null, request[kBatch])
  })
  scope.decorateRequest(kBatch, undefined)
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

/** Returns the number of the line at an index. It does not copy the lines, because there may be a million. */
function findLineNumber (bytes: Buffer, index: number): number {
  let line = 1
  for (let at = 0; at < index; at++) if (bytes[at] === LINE_FEED) line++
  return line
}

/** The error of a message that was refused. Contains the response. */
class Refusal extends Error {
  readonly response: StoredResponse

  constructor (response: StoredResponse) {
    super('The message was refused')
    this.response = response
  }

  /** Whether a client repeats the message. */
  get isRetryable (): boolean {
    const { status } = this.response
    return status === 429 || status === 503
  }
}

type Outcome = QueueResult | Refusal

/** Handles a message of a batch. `assertMayStart` throws if its handler must not start any more. */
type DispatchMessage = (message: BatchMessage, assertMayStart?: () => void) => Promise<StoredResponse>

/** Resolves with the earlier refusal, if there is one; otherwise with the refusal of this outcome, if the client repeats the message. */
async function findRefusal (earlier: Promise<Refusal | undefined>, outcome: Promise<Outcome>): Promise<Refusal | undefined> {
  const refusal = await earlier ?? await outcome
  return refusal instanceof Refusal && refusal.isRetryable ? refusal : undefined
}

/** Handles the messages of a batch in order, except answers and concurrent ones. Resolves with the response body: one result per message. */
export async function handleBatch (sessions: Sessions, session: Session, batch: Batch, defaultEvent: string, request: FastifyRequest, reply: FastifyReply): Promise<string> {
  // One key cannot identify several messages.
  if (getHeader(request, IDEMPOTENCY_KEY) !== undefined) throw new IdempotencyKeyInvalid()
  const messages = batch.readMessages(defaultEvent, Math.max(1, sessions.settings.maxWaitingMessages))
  const dispatch = (message: BatchMessage, handle: RequestHandler): Promise<DispatchResult> => new MessageRequest(request, session, message, handle).dispatch(request.server, getHandlerTimeout(sessions, message.event))
  const dispatchMessage: DispatchMessage = async (message, assertMayStart) => {
    const { event, id } = message
    sessions.markStarted(reply)
    const { response, isHandled } = await dispatch(message, ({ body: data }, reply) => handleMessage(sessions, session, { event, data, id }, reply, assertMayStart))
    if (!isHandled) throw new Refusal(response)
    return response
  }
  const toOutcome = (message: BatchMessage, result: Promise<QueueResult>): Promise<Outcome> => result.catch(async (error: unknown) => {
    if (error instanceof Refusal) return error
    // The message was refused before it was dispatched. Fastify makes the response from the error.
    return new Refusal((await dispatch(message, () => { throw error })).response)
  })
  const isAnswer = ({ event }: BatchMessage): boolean => event === RESPONSE_EVENT
  // Answers do not wait in the queue, because the handlers before them may wait for these answers.
  const answers = messages.map(message => isAnswer(message) ? toOutcome(message, dispatchMessage(message).then(response => ({ response, replayed: false }))) : undefined)
  const others = await enqueueInOrder(sessions, session, messages.filter(message => !isAnswer(message)), batch.size, dispatchMessage, toOutcome)
  const outcomes = await Promise.all(answers.map(answer => answer ?? others.shift() as Promise<Outcome>))
  return `[${outcomes.map(formatResult).join()}]`
}

/**
 * Adds messages to the queue. If one of them is refused and the client repeats it, those after it that are not concurrent are refused as
 * well, because they must not be handled before it. `bodySize` is the size of the whole body, in bytes.
 */
async function enqueueInOrder (sessions: Sessions, session: Session, messages: readonly BatchMessage[], bodySize: number, dispatchMessage: DispatchMessage, toOutcome: (message: BatchMessage, result: Promise<QueueResult>) => Promise<Outcome>): Promise<Array<Promise<Outcome>>> {
  if (messages.length === 0) return []
  const started = new Set<BatchMessage>()
  // Each entry resolves with the refusal of an earlier message that the client repeats, if there is one. The array is in a promise,
  // because the queue may call handlers before `enqueueAll` has returned.
  let setEarlierRefusals: (refusals: ReadonlyArray<Promise<Refusal | undefined>>) => void = noop
  const earlierRefusals = new Promise<ReadonlyArray<Promise<Refusal | undefined>>>(resolve => { setEarlierRefusals = resolve })
  const toQueued = (message: BatchMessage, index: number): QueuedMessage => {
    const { event, id, json } = message
    const isConcurrent = sessions.handlers.isConcurrent(event)
    return {
      key: id,
      isConcurrent,
      // A single POST with the same data has the same fingerprint.
      fingerprint: () => fingerprint(event, json && normalizeJson(json.toString())),
      // The whole body stays in memory while one of its messages waits: also its white space, and members that are ignored.
      size: () => Math.ceil(bodySize / messages.length),
      handle: async assertMayStart => {
        started.add(message)
        const earlierRefusal = isConcurrent ? undefined : await (await earlierRefusals)[index]
        if (earlierRefusal !== undefined) throw earlierRefusal
        return await dispatchMessage(message, assertMayStart)
      }
    }
  }
  const queued = messages.map(toQueued)
  const results = await session[kInternals].messageQueue.enqueueAll(queued)
  const outcomes = results.map((result, index) => {
    const message = messages[index] as BatchMessage
    return toOutcome(message, waitForResult(sessions, session, result, () => started.has(message)))
  })
  let refusal: Promise<Refusal | undefined> = Promise.resolve(undefined)
  setEarlierRefusals(outcomes.map((outcome, index) => {
    const earlier = refusal
    if (queued[index]?.isConcurrent !== true) refusal = findRefusal(earlier, outcome)
    refusal.catch(noop)
    return earlier
  }))
  return outcomes
}
