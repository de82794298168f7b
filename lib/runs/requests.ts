import { andThen, type Awaitable } from '../awaitable.js'
import { AnswerInvalid, OptionInvalid, quote, RequestFailed, RequestTimeout, RequestUnhandled, RequestUnknown, StoreUnavailable } from '../errors.js'
import type { Answer, RunOutcome } from '../store/run-state.js'
import { isSessionId } from '../wire/event-id.js'
import { combineSignals } from './combine-signals.js'
import type { Deliveries, DeliveryContext, DeliverySession } from './deliveries.js'

/** Options of `session.request` on the server: of a request to the client. */
export interface RequestOptions {
  /** Time in which the client must answer, in milliseconds. Default: 30 000. 0 or `false` turns it off. Error: FST_SSE_REQUEST_TIMEOUT. */
  readonly timeout?: number | false
  /** Stops waiting for the answer; the client may handle the request already. Default: none. Error: the reason of the signal. */
  readonly signal?: AbortSignal | undefined
}

const DEFAULT_TIMEOUT = 30_000
const MAX_TIMEOUT = 2 ** 31 - 1
const MAX_MESSAGE_LENGTH = 1000
/** The code with which a client answers a request for which it has no handler. */
const UNHANDLED = 'UNHANDLED'

/**
 * Sends requests to clients. A request is the run of a delivery that has no items. The answer of the client ends the run, in
 * whichever process it arrives. If this process fails, another one ends the run.
 */
export class Requests {
  readonly #context: DeliveryContext
  readonly #deliveries: Deliveries

  constructor (context: DeliveryContext, deliveries: Deliveries) {
    this.#context = context
    this.#deliveries = deliveries
  }

  /**
   * Appends an event to the log of a session, and resolves with what its client answers. `frame` gets the id of the request and
   * formats the event, without its event id; `description` names the request in errors. The event is appended before the call returns, if the store is synchronous.
   */
  send (target: DeliverySession, description: string, frame: (id: string) => string, options: RequestOptions): Promise<unknown> {
    const timeout = resolveTimeout(options)
    const { ids, closeSignal } = this.#context
    const id = ids.next()
    const request = frame(id)
    const { controller, release } = combineSignals([target.signal, closeSignal, options.signal])
    const { signal } = controller
    const timer = timeout === 0 ? undefined : setTimeout(() => { controller.abort(new RequestTimeout(description, timeout)) }, timeout).unref()
    return new Promise<RunOutcome>((resolve, reject) => {
      signal.throwIfAborted()
      signal.addEventListener('abort', () => { reject(signal.reason) })
      const started = this.#deliveries.start(target, { name: nameOfRequest(target.sessionId, id), request }, (_state, runSignal) => waitForEnd(runSignal, signal))
      Promise.resolve(started).then(({ ended }) => ended).then(resolve, reject)
    }).finally(() => {
      clearTimeout(timer)
      release()
    }).then(({ answer }) => readAnswer(description, answer))
  }

  /** Ends a request of a session with the data of a message of its client. Throws or rejects with FST_SSE_ANSWER_INVALID or FST_SSE_REQUEST_UNKNOWN. */
  answer (sessionId: string, message: unknown): Awaitable<void> {
    const { request, ...answer } = parseAnswer(message)
    const store = this.#context.getStore()
    // A text of another form can have any length, so it must not become part of a name.
    if (!isSessionId(request)) throw new RequestUnknown()
    return andThen(store.find(nameOfRequest(sessionId, request), undefined, sessionId), state => {
      if (state === undefined) throw new RequestUnknown()
      return andThen(store.end(state, { status: 'finished', answer }), isEnded => { if (!isEnded) throw new RequestUnknown() })
    })
  }
}

/** Returns the time limit in milliseconds; 0 if there is none. Throws FST_SSE_OPTION_INVALID if the options are invalid. */
function resolveTimeout ({ timeout = DEFAULT_TIMEOUT, signal }: RequestOptions): number {
  const ms = timeout === false ? 0 : timeout
  if (!(Number.isInteger(ms) && ms >= 0 && ms <= MAX_TIMEOUT)) throw new OptionInvalid(`Option "timeout" must be false or a whole number of milliseconds from 0 to ${MAX_TIMEOUT}; it is ${String(timeout)}`)
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw new OptionInvalid(`Option "signal" must be an AbortSignal; it is ${quote(signal)}`)
  return ms
}

/** Returns the name of the run of a request. */
function nameOfRequest (sessionId: string, id: string): string {
  return `request ${sessionId} ${id}`
}

/** Resolves with `undefined` when the run has ended, and with its outcome when the call does not wait for the answer any more. */
function waitForEnd (runSignal: AbortSignal, signal: AbortSignal): Promise<RunOutcome | undefined> {
  const outcome: RunOutcome = { status: 'stopped' }
  return new Promise(resolve => {
    runSignal.addEventListener('abort', () => { resolve(undefined) })
    signal.addEventListener('abort', () => { resolve(outcome) })
    if (runSignal.aborted) resolve(undefined)
    else if (signal.aborted) resolve(outcome)
  })
}

function parseAnswer (message: unknown): Answer & { request: string } {
  const { request, data, error } = Object(message) as Record<string, unknown>
  if (typeof request !== 'string') throw new AnswerInvalid()
  if (error === undefined) return { request, data }
  const { code, message: text } = Object(error) as Record<string, unknown>
  if (typeof text !== 'string') throw new AnswerInvalid()
  // The code of a DOMException is a number.
  return { request, error: { ...typeof code === 'string' && { code }, message: text.slice(0, MAX_MESSAGE_LENGTH) } }
}

/** Returns the data of an answer. Throws the error that it contains; without an answer, FST_SSE_STORE_UNAVAILABLE. */
function readAnswer (description: string, answer: Answer | undefined): unknown {
  // This process has lost its lease, or the store its data.
  if (answer === undefined) throw new StoreUnavailable()
  const { data, error } = answer
  if (error === undefined) return data
  if (error.code === UNHANDLED) throw new RequestUnhandled(description)
  throw Object.assign(new RequestFailed(description, error.message), { cause: error })
}
