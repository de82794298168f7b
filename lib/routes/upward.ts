import { hash } from 'node:crypto'
import { STATUS_CODES } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest, onSendHookHandler, RouteOptions } from 'fastify'
import { BatchMalformed, BatchTooLarge, DataTooDeep, IdempotencyKeyInvalid, SessionUnknown, statusOf, StoreUnavailable } from '../errors.js'
import type { Message } from '../hooks.js'
import { chain, ignore, isPromise } from '../promises.js'
import { answer } from '../reply.js'
import type { Session } from '../session.js'
import type { Sessions } from '../sessions.js'
import type { Delivery, Letter } from '../store/mailbox.js'
import type { Awaitable } from '../store/store.js'
import { IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED, SESSION_CONNECTED, SESSION_ID } from '../wire/headers.js'
import { header, identify, SESSION, type Addressed } from './identify.js'

// Has Fastify set up its validator, which the schemas of handlers need; an app with one of its own may not know JSON Schema.
const JSON_SCHEMA = { params: { type: 'object', properties: { event: { type: 'string', minLength: 1 } } } }

/** POST of the upward path, with and without the event's name in it: hands messages to the session's mailbox. */
export function upwardRoutes (sessions: Sessions, takesJsonSchema: boolean): RouteOptions[] {
  const { routes: { upward }, upwardPath } = sessions.settings
  const onSend: onSendHookHandler<unknown> = (request, reply, payload, done) => {
    const tell = (connected: boolean | undefined): void => {
      if (connected !== undefined) reply.header(SESSION_CONNECTED, String(connected))
    }
    const connected = isConnected(sessions, request, reply)
    // Fastify goes on by itself where it is given a promise, and sees to what fails then.
    if (isPromise(connected)) return connected.then(tell, ignore)
    tell(connected)
    done(null, payload)
    return undefined
  }
  return [upwardPath, `${upwardPath}/:event`].map(url => ({
    ...upward,
    schema: { ...takesJsonSchema && JSON_SCHEMA, ...upward.schema },
    method: 'POST',
    url,
    onSend: [upward.onSend ?? [], onSend].flat(),
    // Not async: what is there at once is answered at once.
    handler: (request, reply) => {
      const body = receive(sessions, request, reply)
      if (body instanceof Promise) return body
      reply.send(body)
      return undefined
    }
  }))
}

/** Whether the session that a request speaks for has a stream; `undefined` where that is not known, for a client that is told of none gives its stream up. */
function isConnected (sessions: Sessions, request: FastifyRequest & Addressed, { statusCode }: FastifyReply): Awaitable<boolean | undefined> {
  const session = request[SESSION]
  if (session !== null) return session?.connected === true
  const id = header(request, SESSION_ID)
  if (id === undefined) return false
  // The request failed before its session was looked up. Its id is enough if there are no principals; a store that has not answered is not asked again.
  if (!sessions.settings.anyone || statusCode === 503) return undefined
  return chain(sessions.recall(id), known => known?.connected === true)
}

/** Answers with the body to send. */
function receive (sessions: Sessions, request: FastifyRequest, reply: FastifyReply): Awaitable<unknown> {
  return chain(identify(sessions, request), session => {
    const { event = 'message' } = request.params as { event?: string }
    return request.body instanceof Batch
      ? receiveBatch(sessions, session, request.body, event, request, reply)
      : receiveOne(sessions, session, event, request, reply)
  })
}

function receiveOne (sessions: Sessions, session: Session, event: string, request: FastifyRequest, reply: FastifyReply): Awaitable<unknown> {
  const id = header(request, IDEMPOTENCY_KEY)
  if (id !== undefined && !isKey(id)) throw new IdempotencyKeyInvalid()
  return chain(session.mailbox.deliver(letter(sessions, session, { event, data: request.body, id }, request)), ({ outcome, replayed }) => {
    if (replayed) reply.header(IDEMPOTENT_REPLAYED, 'true')
    if (outcome.error !== undefined) throw outcome.error
    reply.headers(outcome.headers).code(outcome.status)
    return outcome.body
  })
}

async function receiveBatch (sessions: Sessions, session: Session, batch: Batch, event: string, request: FastifyRequest, reply: FastifyReply): Promise<string> {
  if (header(request, IDEMPOTENCY_KEY) !== undefined) throw new IdempotencyKeyInvalid()
  const messages = batch.messages(event)
  const deliveries = await session.mailbox.deliverAll(inOrder(messages.map(message => letter(sessions, session, message, request))))
  const reports = await Promise.all(deliveries.map(delivery => delivery.then(report, refusal)))
  reply.type('application/json; charset=utf-8')
  return `[${reports.map(stringify).join()}]`
}

function letter (sessions: Sessions, session: Session, message: Message, request: FastifyRequest): Letter {
  return {
    key: message.id,
    payload: () => fingerprint(message),
    handle: () => {
      // It may have ended while the message waited.
      if (session.closed) throw new SessionUnknown()
      return chain(sessions.dispatcher.prepare(session, message, request), answer)
    }
  }
}

/** Has those behind one that is to be repeated, for the store has failed it, wait for that: repeated alone it would come after them. */
function inOrder (letters: readonly Letter[]): Letter[] {
  let refused: Error | undefined
  return letters.map(({ handle, ...letter }) => ({
    ...letter,
    handle: async () => {
      if (refused !== undefined) throw refused
      try {
        return await handle()
      } catch (error) {
        if (error instanceof StoreUnavailable) refused = error
        throw error
      }
    }
  }))
}

/** Tells a message from another that comes under the same key. */
function fingerprint ({ event, data }: Message): string {
  let json: string
  try {
    json = JSON.stringify([event, data])
  } catch {
    // What could be read may be nested too deep to be written.
    throw new DataTooDeep()
  }
  return hash('sha256', json, 'base64')
}

/** The outcome of one message of a batch. */
interface Report {
  readonly status: number
  readonly body: unknown
  readonly replayed?: true
}

function report ({ outcome, replayed }: Delivery): Report {
  const { status, body } = outcome.error === undefined ? outcome : refusal(outcome.error)
  return { status, body, ...replayed && { replayed } }
}

/** An error in the shape that Fastify gives it. */
function refusal (error: Error & { code?: string }): Report {
  const { code, message } = error
  const statusCode = statusOf(error)
  return { status: statusCode, body: { statusCode, code, error: STATUS_CODES[statusCode], message } }
}

/** An outcome as JSON; where it has none, that is an error of its message alone. */
function stringify (report: Report): string {
  try {
    return JSON.stringify(report)
  } catch (error) {
    return JSON.stringify(refusal(error as Error))
  }
}

const isKey = (key: unknown): key is string => typeof key === 'string' && /^[\x21-\x7e][\x20-\x7e]{0,254}$/.test(key)

interface Line {
  readonly number: number
  readonly value: unknown
}

/** The lines of an `application/x-ndjson` body. */
class Batch {
  readonly #lines: readonly Line[]

  constructor (lines: readonly Line[]) {
    this.#lines = lines
  }

  /** The messages; those that do not name their event have the given one. */
  messages (defaultEvent: string): Message[] {
    return this.#lines.map(({ number, value }) => {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new BatchMalformed(number, 'it is no object')
      const { event = defaultEvent, data, id } = value as { event?: unknown, data?: unknown, id?: unknown }
      if (typeof event !== 'string') throw new BatchMalformed(number, 'its "event" is no string')
      if (id !== undefined && !isKey(id)) throw new BatchMalformed(number, 'its "id" is not 1 to 255 printable ASCII characters')
      return { event, data, id }
    })
  }
}

/** Has a scope understand batches, each line under the app's own rules for JSON; `maxWaiting` is how many lines a batch may have, but for one, which always may come. */
export function addBatchParser (scope: FastifyInstance, maxWaiting: number): void {
  const { onProtoPoisoning = 'error', onConstructorPoisoning = 'error' } = scope.initialConfig
  const parseJson = scope.getDefaultJsonParser(onProtoPoisoning, onConstructorPoisoning)
  scope.addContentTypeParser('application/x-ndjson', { parseAs: 'string' }, (request, body, done) => {
    const texts = String(body).split('\n').map((text, index) => ({ text, number: index + 1 })).filter(({ text }) => text.trim() !== '')
    // Before they are read: whoever may post could keep the process busy with lines that are not to be handled.
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
