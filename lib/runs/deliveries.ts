import type { FastifyBaseLogger } from 'fastify'
import { andThen, cleanUpAfterError, noop, type Awaitable } from '../awaitable.js'
import { Closing, RunOver, SessionOver, StoreUnavailable, TooManyDeliveries } from '../errors.js'
import { assertFits, type LogBounds } from '../log/log.js'
import { logSafely } from '../safe-log.js'
import type { DeliveryTarget, RunInput, RunOutcome, RunState } from '../store/run-state.js'
import type { RunStore } from '../store/run-store.js'
import { pump } from '../stream/pump.js'
import type { IdGenerator } from '../wire/event-id.js'
import { framePart, framePartEnd, framePartPrefix, serialize } from '../wire/frame.js'
import { combineSignals } from './combine-signals.js'
import { readParts, resolveStart, type FollowOptions } from './run-parts.js'

/** The session in whose stream items are delivered. */
export interface DeliverySession {
  readonly sessionId: string
  /** Aborts when the session is closed. */
  readonly signal: AbortSignal
  /** Settles when the unsent entries fill less than half of the session's log. */
  waitForDrain (): Awaitable<void>
}

/** Does the work of a run. Resolves with its outcome, or with `undefined` if the run was ended elsewhere. */
export type RunWork = (signal: AbortSignal) => Promise<RunOutcome | undefined>

/** What deliveries need from the registry of runs. */
export interface DeliveryContext {
  readonly log: LogBounds
  readonly logger: FastifyBaseLogger
  readonly maxDeliveries: number
  readonly ids: IdGenerator
  /** Aborts when the server closes. */
  readonly closeSignal: AbortSignal
  getStore (): RunStore
  /** Calls a function that starts a run. The server does not close before it has settled. */
  whileStarting<Value> (start: () => Awaitable<Value>): Awaitable<Value>
  /** Does the work of a run, and ends the run when the work resolves. Resolves with the outcome. */
  execute (state: RunState, work: RunWork): Promise<RunOutcome>
}

/** The name of the run of a delivery, and what the delivery sends. */
export type RunOfDelivery = Pick<RunInput, 'name'> & Omit<DeliveryTarget, 'sessionId'>

/** What is delivered. */
interface DeliveryInput {
  readonly name: string
  /** The start of the frame of each part. */
  readonly partPrefix: string
  readonly read: (signal: AbortSignal) => AsyncIterable<unknown>
  /** Formats the properties of the part with an item as JSON, without the braces. */
  readonly format: (item: unknown) => string
  /** Returns how the delivery ends if all items were delivered. */
  readonly getOutcome: () => RunOutcome
  /** Returns how the delivery ends after an error, which can be the reason of a signal. `isSessionOver`: whether the store has rejected a part because the session is closed. */
  readonly onError: (error: unknown, isSessionOver: boolean) => Awaitable<RunOutcome>
  /** Ends the delivery when it aborts. */
  readonly signal?: AbortSignal
}

/**
 * Delivers items in the streams of sessions, as `part` events. A delivery is a run, so that it can be stopped in every process,
 * and that another process ends it if this one fails.
 */
export class Deliveries {
  readonly #context: DeliveryContext
  /** Number of deliveries of this process to each session. */
  readonly #counts = new WeakMap<DeliverySession, number>()

  constructor (context: DeliveryContext) {
    this.#context = context
  }

  /**
   * Delivers the values of the handler of a message. `onError` returns how the delivery ends after an error. Resolves when it has
   * started. Rejects with FST_SSE_TOO_MANY_DELIVERIES, FST_SSE_RUN_EXISTS, FST_SSE_RUNS_UNSUPPORTED, FST_SSE_CLOSING or FST_SSE_STORE_UNAVAILABLE.
   */
  deliverValues (target: DeliverySession, key: string, read: DeliveryInput['read'], onError: DeliveryInput['onError']): Awaitable<unknown> {
    return this.#deliver(target, {
      name: nameOfValues(target.sessionId, key),
      partPrefix: framePartPrefix('message', key),
      read,
      format: value => `"data":${serialize(value)}`,
      getOutcome: () => ({ status: 'finished' }),
      onError
    })
  }

  /** Stops the delivery of the values of the handler of a message, in any process. */
  stopValues (sessionId: string, key: string): Awaitable<void> {
    const store = this.#context.getStore()
    return andThen(store.find(nameOfValues(sessionId, key), undefined, sessionId), state => state === undefined ? undefined : andThen(store.end(state, { status: 'stopped' }), noop))
  }

  /** Delivers the events of a run. Resolves with the outcome of the delivery: that of the run, if all of it was delivered. */
  async follow (run: RunState, target: DeliverySession, options: FollowOptions): Promise<RunOutcome> {
    const start = resolveStart(run, options)
    const { getStore, closeSignal, ids } = this.#context
    const store = getStore()
    let failure: unknown
    const { ended } = await this.#deliver(target, {
      name: `follow ${ids.next()}`,
      partPrefix: framePartPrefix('run', run.name),
      read: signal => readParts(run, store, start, signal),
      format: part => part as string,
      getOutcome: () => run.outcome as RunOutcome,
      onError: error => {
        if (error === closeSignal.reason) return { status: 'lost', reason: 'shutdown' }
        failure = error
        // The client may follow again after `lost`.
        return { status: error instanceof StoreUnavailable ? 'lost' : 'failed' }
      },
      signal: closeSignal
    })
    const outcome = await ended
    if (failure !== undefined) throw failure
    return outcome
  }

  #deliver (target: DeliverySession, input: DeliveryInput): Awaitable<{ ended: Promise<RunOutcome> }> {
    const { name, partPrefix } = input
    return this.start(target, { name, partPrefix }, (state, signal) => this.#sendParts(state, target, input, signal))
  }

  /** Starts the run of a delivery. Resolves when it has started; `ended` resolves with the outcome. */
  start (target: DeliverySession, input: RunOfDelivery, send: (state: RunState, signal: AbortSignal) => Promise<RunOutcome | undefined>): Awaitable<{ ended: Promise<RunOutcome> }> {
    const { closeSignal, ids, maxDeliveries, getStore, whileStarting, execute } = this.#context
    if (closeSignal.aborted) throw new Closing()
    const store = getStore()
    if ((this.#counts.get(target) ?? 0) >= maxDeliveries) throw new TooManyDeliveries(maxDeliveries)
    const { name, ...delivery } = input
    const run = { id: ids.next(), name, principal: undefined, fingerprint: undefined, keep: 0, delivery: { sessionId: target.sessionId, ...delivery } }
    // The delivery counts before it has started, so that the limit also applies to calls in the same tick.
    this.#addCount(target, 1)
    const remove = (): void => { this.#addCount(target, -1) }
    return cleanUpAfterError(() => whileStarting(() => andThen(store.start(run, 'never'), state => {
      const ended = execute(state as RunState, signal => send(state as RunState, signal))
      return { ended: ended.finally(remove) }
    })), remove)
  }

  #addCount (target: DeliverySession, change: number): void {
    this.#counts.set(target, (this.#counts.get(target) ?? 0) + change)
  }

  async #sendParts (state: RunState, target: DeliverySession, { partPrefix, read, format, getOutcome, onError, signal: ownSignal }: DeliveryInput, runSignal: AbortSignal): Promise<RunOutcome | undefined> {
    const { controller, release } = combineSignals([runSignal, target.signal, ownSignal])
    const { signal } = controller
    const { logger } = this.#context
    const store = this.#context.getStore()
    let outcome: RunOutcome | undefined
    // The error with which the store has rejected a part. The items may throw such an error of another run or session.
    let rejection: unknown
    try {
      await pump(read(signal), signal, {
        write: item => {
          const frame = framePart(partPrefix, format(item))
          return cleanUpAfterError(() => store.append(state, { frame }), error => { rejection = error })
        },
        waitForDrain: () => target.waitForDrain(),
        onLateError: error => { logSafely(logger, 'warn', { err: error, run: state.shortId }, 'an async iterable failed after its delivery had ended') }
      })
      outcome = getOutcome()
    } catch (error) {
      controller.abort(error)
      // The store may reject a part before this process has received the end of the run.
      if (state.outcome === undefined && !(rejection instanceof RunOver)) outcome = this.#limitOutcome(await onError(error, rejection instanceof SessionOver), partPrefix)
    } finally {
      release()
    }
    return outcome
  }

  /** Returns only the status of an outcome that is too large for the log of the session. */
  #limitOutcome (outcome: RunOutcome, partPrefix: string): RunOutcome {
    try {
      assertFits({ frame: framePartEnd(partPrefix, outcome) }, this.#context.log)
      return outcome
    } catch {
      return { status: outcome.status }
    }
  }
}

/** Returns the name of the run that delivers the values of the handler of a message. */
function nameOfValues (sessionId: string, key: string): string {
  return `message ${sessionId} ${key}`
}
