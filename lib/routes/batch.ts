import { STATUS_CODES } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { BatchMalformed, BatchTooLarge, IdempotencyKeyInvalid, statusOf, StoreUnavailable } from '../errors.js'
import type { Message } from '../sessions/hooks.js'
import { kStream, type Session } from '../sessions/session.js'
import type { Sessions } from '../sessions/sessions.js'
import type { QueuedMessage, QueueResult } from '../store/message-queue.js'
import { IDEMPOTENCY_KEY } from '../wire/headers.js'
import { isIdempotencyKey, toQueuedMessage } from './message.js'
import { getHeader } from './require-session.js'

interface Line {
  readonly number: number
  readonly value: unknown
}

/** A body of the type `application/x-ndjson`: several messages of one session, one on each line. */
export class Batch {
  readonly #lines: readonly Line[]

  constructor (lines: readonly Line[]) {
    this.#lines = lines
  }

  /** Returns the messages of the batch. A line without an `event` gets the default one. Throws FST_SSE_BATCH_MALFORMED. */
  messages (defaultEvent: string): Message[] {
    return this.#lines.map(({ number, value }) => {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new BatchMalformed(number, 'it is not an object')
      const { event = defaultEvent, data, id } = value as { event?: unknown, data?: unknown, id?: unknown }
      if (typeof event !== 'string') throw new BatchMalformed(number, 'its "event" is not a string')
      if (id !== undefined && !isIdempotencyKey(id)) throw new BatchMalformed(number, 'its "id" is not 1 to 255 printable ASCII characters')
      return { event, data, id }
    })
  }
}

/** Adds the parser for batches to a scope. It parses each line with Fastify's JSON parser and the options of the app. `maxWaiting` limits the number of lines; one line is always accepted. */
export function addBatchParser (scope: FastifyInstance, maxWaiting: number): void {
  const { onProtoPoisoning = 'error', onConstructorPoisoning = 'error' } = scope.initialConfig
  const parseJson = scope.getDefaultJsonParser(onProtoPoisoning, onConstructorPoisoning)
  scope.addContentTypeParser('application/x-ndjson', { parseAs: 'string' }, (request, body, done) => {
    const texts = String(body).split('\n').map((text, index) => ({ text, number: index + 1 })).filter(({ text }) => text.trim() !== '')
    // Before the lines are parsed, because parsing lines that are refused anyway would keep the process busy.
    if (texts.length > Math.max(1, maxWaiting)) {
      done(new BatchTooLarge(texts.length, maxWaiting))
      return
    }
    const lines: Line[] = []
    for (const { text, number } of texts) {
      let failure: Error | null = null
      parseJson(request, text, (error, value) => {
        failure = error
        lines.push({ number, value })
      })
      if (failure !== null) {
        done(new BatchMalformed(number, (failure as Error).message))
        return
      }
    }
    done(null, new Batch(lines))
  })
}

/** Handles the messages of a batch in order. Resolves with the response body: one report per message. */
export async function handleBatch (sessions: Sessions, session: Session, batch: Batch, defaultEvent: string, request: FastifyRequest, reply: FastifyReply): Promise<string> {
  // One key cannot identify several messages.
  if (getHeader(request, IDEMPOTENCY_KEY) !== undefined) throw new IdempotencyKeyInvalid()
  const messages = batch.messages(defaultEvent).map(message => toQueuedMessage(sessions, session, message, request))
  const results = await session[kStream].messageQueue.enqueueAll(stopAfterStoreFailure(messages))
  const reports = await Promise.all(results.map(result => result.then(toReport, toErrorReport)))
  reply.type('application/json; charset=utf-8')
  return `[${reports.map(stringify).join()}]`
}

/** Wraps messages, so that those after one that failed with StoreUnavailable are refused. The client repeats that one, and those after it must not be handled before it. */
function stopAfterStoreFailure (messages: readonly QueuedMessage[]): QueuedMessage[] {
  let failure: Error | undefined
  return messages.map(({ handle, ...message }) => ({
    ...message,
    handle: async () => {
      if (failure !== undefined) throw failure
      try {
        return await handle()
      } catch (error) {
        if (error instanceof StoreUnavailable) failure = error
        throw error
      }
    }
  }))
}

/** The result of one message of a batch, as the response body contains it. */
interface Report {
  readonly status: number
  readonly body: unknown
  readonly replayed?: true
}

function toReport ({ response, replayed }: QueueResult): Report {
  const { status, body } = response.error === undefined ? response : toErrorReport(response.error)
  return { status, body, ...replayed && { replayed } }
}

/** Creates the report of an error. Its body has Fastify's format. */
function toErrorReport (error: Error & { code?: string }): Report {
  const { code, message } = error
  const statusCode = statusOf(error)
  return { status: statusCode, body: { statusCode, code, error: STATUS_CODES[statusCode], message } }
}

/** Serializes a report. A body that cannot be serialized becomes an error of this message; it does not affect the others. */
function stringify (report: Report): string {
  try {
    return JSON.stringify(report)
  } catch (error) {
    return JSON.stringify(toErrorReport(error as Error))
  }
}
