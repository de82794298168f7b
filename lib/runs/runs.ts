import { setMaxListeners } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { andThen, cleanUpAfterError, noop, settlesWithin, toPromise, type Awaitable } from '../awaitable.js'
import { Closing, IdempotencyKeyReused, quote, RunInvalid, RunOver, RunsUnsupported, StoreUnavailable, TooManyRuns, TooManyWaiting } from '../errors.js'
import { assertFits, type LogBounds } from '../log/log.js'
import { logSafely } from '../safe-log.js'
import type { RunListener, RunOutcome, RunState } from '../store/run-state.js'
import type { Reuse, RunStore } from '../store/run-store.js'
import { Heartbeat } from '../stream/heartbeat.js'
import { pump } from '../stream/pump.js'
import type { StreamWriter } from '../stream/stream-writer.js'
import { IdGenerator } from '../wire/event-id.js'
import { framePartEnd, framePartPrefix, frameRunItem, HEARTBEAT_FRAME, type EncodeData } from '../wire/frame.js'
import { readRun, resolveStart, type FollowOptions } from './run-follower.js'
import { assertFunctions, assertKeep, assertOptions } from './run-options.js'
import { Run, type DeliveryTarget, type RunContext } from './run.js'

/** What a producer receives. */
export interface ProducerContext {
  /** Aborts when the run is stopped, fails or is lost, and when the server closes. */
  readonly signal: AbortSignal
}

/** Returns the events of a run: usually an async generator function. An item `{ event, data }` is an event with a name, every other item is the data of an event. */
export type Producer = (context: ProducerContext) => AsyncIterable<unknown> | Iterable<unknown>

/** Options of {@link Runs.find}. */
export interface FindRunOptions {
  /** The principal to which the run belongs, usually the id of a user. A run of another principal is not found. Default: none. */
  readonly principal?: string | undefined
}

/** Options of {@link Runs.start}. */
export interface StartRunOptions extends FindRunOptions {
  /** Milliseconds for which the run is kept after its end. Default: 300 000. */
  readonly keep?: number
  /**
   * Which run with the same name and principal is returned instead of a new one: `running`, one that has not ended; `kept`, also one
   * that has ended and is kept; `never`, none: if one has not ended, the call rejects with FST_SSE_RUN_EXISTS. Default: `running`.
   */
  readonly reuse?: Reuse
  /** Encodes the data of each event. Default: as JSON. */
  readonly encode?: EncodeData
}

/** The plugin options that runs use. */
export interface RunSettings {
  readonly heartbeatInterval: number | false
  readonly log: LogBounds
  readonly runLog: LogBounds
  readonly maxRuns: number
  readonly maxWaitingMessages: number
}

/** What is delivered in the stream of a session. */
export interface DeliveryInput {
  readonly name: string
  /** The start of the frame of each part. */
  readonly partPrefix: string
  readonly read: (signal: AbortSignal) => AsyncIterable<unknown>
  /** Formats the properties of the part with an item as JSON, without the braces. */
  readonly format: (item: unknown) => string
  /** Returns how the delivery ends if all items were delivered. */
  readonly getOutcome: () => RunOutcome
  /** Returns how the delivery ends after an error, which can be the reason of a signal. */
  readonly onError: (error: unknown) => Awaitable<RunOutcome>
  /** Ends the delivery when it aborts. */
  readonly signal?: AbortSignal
}

const DEFAULT_KEEP = 300_000
const REUSE: readonly unknown[] = ['running', 'kept', 'never']
const FIND_OPTIONS = ['principal']
const START_OPTIONS = ['principal', 'keep', 'reuse', 'encode']
/** Number of items after which the producer waits one tick, so that readers can write. */
const ITEMS_PER_TICK = 64
/** Milliseconds that `close` waits for the store. */
const STORE_TIMEOUT = 100

/** The registry of runs. */
export class Runs {
  readonly #settings: RunSettings
  readonly #logger: FastifyBaseLogger
  readonly #store: RunStore | undefined
  readonly #context: RunContext
  readonly #heartbeat: Heartbeat
  readonly #ids = new IdGenerator()
  readonly #streams = new Set<StreamWriter>()
  /** The runs whose producers are in this process. */
  readonly #producing = new Set<RunState>()
  /** Number of deliveries of this process to each session. */
  readonly #deliveryCounts = new WeakMap<DeliveryTarget, number>()
  /** Aborts when the server closes: another process can follow the runs. */
  readonly #closeController = new AbortController()
  #closing = false
  /** Resolves the promise for which `close` waits. */
  #onIdle: () => void = noop

  /** @internal `store` is `undefined` if the store of the app does not support runs. */
  constructor (settings: RunSettings, logger: FastifyBaseLogger, store: RunStore | undefined, { createRetryDelay, onUnhandled }: Pick<RunContext, 'createRetryDelay' | 'onUnhandled'>) {
    this.#settings = settings
    this.#logger = logger
    this.#store = store
    setMaxListeners(0, this.#closeController.signal)
    this.#heartbeat = new Heartbeat(settings.heartbeatInterval, HEARTBEAT_FRAME, this.#streams)
    this.#context = {
      getStore: () => this.#getStore(),
      isClosing: () => this.#closing,
      createRetryDelay,
      onUnhandled,
      follow: (run, target, options) => this.#follow(run, target, options),
      onStreamOpen: stream => { this.#streams.add(stream) },
      onStreamClose: stream => {
        this.#streams.delete(stream)
        this.#resolveIfIdle()
      }
    }
  }

  /**
   * Starts a run: the items of the producer become its events. Resolves when the run exists, not when it has ended. Names belong
   * to a principal: runs of different principals can have the same name. Rejects with FST_SSE_RUN_INVALID, FST_SSE_RUN_EXISTS,
   * FST_SSE_TOO_MANY_RUNS, FST_SSE_RUNS_UNSUPPORTED, FST_SSE_CLOSING or FST_SSE_STORE_UNAVAILABLE.
   */
  start (name: string, options: StartRunOptions, producer: Producer): Promise<Run> {
    return toPromise(() => this.startWithFingerprint(name, options, undefined, producer))
  }

  /** Finds the newest run with a name, running or kept; `undefined` if there is none. Rejects with FST_SSE_RUN_INVALID, FST_SSE_RUNS_UNSUPPORTED or FST_SSE_STORE_UNAVAILABLE. */
  find (name: string, options: FindRunOptions = {}): Promise<Run | undefined> {
    return toPromise(() => {
      assertName(name)
      const { principal } = checkOptions(options, FIND_OPTIONS)
      return andThen(this.#getStore().find(name, principal), state => state && new Run(state, this.#context))
    })
  }

  /** @internal Finds a run by id, also one whose name is used by a newer run. A run of another principal is not found. */
  findById (id: string, principal: string | undefined): Awaitable<Run | undefined> {
    return andThen(this.#getStore().findById(id), state => state === undefined || state.principal !== principal ? undefined : new Run(state, this.#context))
  }

  /** @internal Finds the run that an earlier request has started. Throws or rejects with FST_SSE_IDEMPOTENCY_KEY_REUSED if that was another request. */
  findRepeated (name: string, principal: string | undefined, fingerprint: string): Awaitable<Run | undefined> {
    return andThen(this.#getStore().find(name, principal), state => {
      if (state === undefined) return undefined
      if (state.fingerprint !== fingerprint) throw new IdempotencyKeyReused()
      return new Run(state, this.#context)
    })
  }

  /** @internal Throws FST_SSE_RUNS_UNSUPPORTED if the store does not support runs. */
  assertSupported (): void {
    this.#getStore()
  }

  /** @internal Starts a run. If there is one with another fingerprint, rejects with FST_SSE_IDEMPOTENCY_KEY_REUSED. */
  startWithFingerprint (name: string, options: StartRunOptions, fingerprint: string | undefined, producer: Producer): Awaitable<Run> {
    assertName(name)
    const { principal, keep = DEFAULT_KEEP, reuse = 'running', encode } = checkOptions(options, START_OPTIONS)
    assertKeep(keep)
    assertFunctions({ encode })
    if (!REUSE.includes(reuse)) throw new RunInvalid(`Option "reuse" of a run must be "running", "kept" or "never"; it is ${quote(reuse)}`)
    if (typeof producer !== 'function') throw new RunInvalid('The producer of a run must be a function that returns an iterable, usually an async generator function')
    if (this.#closing) throw new Closing()
    const id = this.#ids.next()
    return andThen(this.#getStore().start({ id, name, principal, fingerprint, keep, ...encode !== undefined && { isText: true } }, reuse), state => {
      if (state === undefined) throw new TooManyRuns(this.#settings.maxRuns)
      // Another process may have stopped the run already.
      if (state.id === id && state.outcome === undefined) this.#produce(state, signal => this.#appendItems(state, producer, encode, signal))
      return new Run(state, this.#context)
    })
  }

  /**
   * @internal Delivers items in the stream of a session, as `part` events. The delivery is a run, so that it can be stopped in every process, and
   * that another process ends it if this one fails. Resolves when it has started, with a promise of its outcome. Rejects with
   * FST_SSE_TOO_MANY_WAITING, FST_SSE_RUN_EXISTS, FST_SSE_RUNS_UNSUPPORTED, FST_SSE_CLOSING or FST_SSE_STORE_UNAVAILABLE.
   */
  deliver (target: DeliveryTarget, input: DeliveryInput): Awaitable<{ ended: Promise<RunOutcome> }> {
    if (this.#closing) throw new Closing()
    const store = this.#getStore()
    const count = this.#deliveryCounts.get(target) ?? 0
    if (count > this.#settings.maxWaitingMessages) throw new TooManyWaiting(count)
    const { name, partPrefix } = input
    const start = { id: this.#ids.next(), name, principal: undefined, fingerprint: undefined, keep: 0, delivery: { sessionId: target.sessionId, partPrefix } }
    // Now, so that calls in the same tick count, too.
    this.#addDelivery(target, 1)
    const remove = (): void => { this.#addDelivery(target, -1) }
    return cleanUpAfterError(() => andThen(store.start(start, 'never'), state => {
      const ended = this.#produce(state as RunState, signal => this.#sendParts(state as RunState, target, input, signal))
      return { ended: ended.finally(remove) }
    }), remove)
  }

  /** @internal Stops a delivery to a session, in any process. */
  stopDelivery (name: string, sessionId: string): Awaitable<void> {
    const store = this.#getStore()
    return andThen(store.find(name, undefined, sessionId), state => state === undefined ? undefined : andThen(store.end(state, { status: 'stopped' }), noop))
  }

  /** @internal Waits until all runs of this process have ended and their readers have received everything, at most for a time in milliseconds. Then ends the rest. */
  async close (timeout: number): Promise<void> {
    this.#closing = true
    this.#closeController.abort(new Closing())
    const idle = new Promise<void>(resolve => { this.#onIdle = resolve })
    this.#resolveIfIdle()
    await settlesWithin(idle, timeout)
    this.#heartbeat.stop()
    // Before the runs end, so that clients get an error instead of a response that looks complete.
    for (const stream of this.#streams) stream.abort()
    const ends = [...this.#producing].map(state => this.#end(state, { status: 'lost', reason: 'shutdown' }))
    await settlesWithin(Promise.all(ends), STORE_TIMEOUT)
  }

  #getStore (): RunStore {
    if (this.#store === undefined) throw new RunsUnsupported()
    return this.#store
  }

  #resolveIfIdle (): void {
    if (this.#streams.size === 0 && this.#producing.size === 0) this.#onIdle()
  }

  #addDelivery (target: DeliveryTarget, change: number): void {
    this.#deliveryCounts.set(target, (this.#deliveryCounts.get(target) ?? 0) + change)
  }

  /** Delivers the events of a run in the stream of a session. Resolves with the outcome of the run. */
  async #follow (run: RunState, target: DeliveryTarget, options: FollowOptions): Promise<RunOutcome> {
    const start = resolveStart(run, options)
    const store = this.#getStore()
    let failure: unknown
    const { ended } = await this.deliver(target, {
      name: `follow ${this.#ids.next()}`,
      partPrefix: framePartPrefix('run', run.name),
      read: signal => readRun(run, store, start, signal),
      format: part => part as string,
      getOutcome: () => run.outcome as RunOutcome,
      onError: error => {
        if (error === this.#closeController.signal.reason) return { status: 'lost', reason: 'shutdown' }
        failure = error
        // The client may follow again after `lost`.
        return { status: error instanceof StoreUnavailable ? 'lost' : 'failed' }
      },
      signal: this.#closeController.signal
    })
    const outcome = await ended
    if (failure !== undefined) throw failure
    return outcome
  }

  /** Returns the outcome of a delivery without its response if that is too large for the log of the session. */
  #limitOutcome (outcome: RunOutcome, partPrefix: string): RunOutcome {
    try {
      assertFits({ frame: framePartEnd(partPrefix, outcome) }, this.#settings.log)
      return outcome
    } catch {
      return { status: outcome.status }
    }
  }

  /** Sends items to a session. Resolves with the outcome of the delivery, or with `undefined` if its run has ended before. */
  async #sendParts (state: RunState, target: DeliveryTarget, { partPrefix, read, format, getOutcome, onError, signal: ownSignal }: DeliveryInput, runSignal: AbortSignal): Promise<RunOutcome | undefined> {
    // Not with `AbortSignal.any`, which leaks memory in some versions of Node if one of the signals lives long.
    const controller = new AbortController()
    const { signal } = controller
    setMaxListeners(0, signal)
    const sources = [runSignal, target.signal, ...ownSignal === undefined ? [] : [ownSignal]]
    const onAbort = (): void => { controller.abort(sources.find(({ aborted }) => aborted)?.reason) }
    for (const source of sources) source.addEventListener('abort', onAbort)
    if (sources.some(({ aborted }) => aborted)) onAbort()
    let outcome: RunOutcome | undefined
    try {
      await pump(read(signal), signal, {
        write: item => target.sendFrame(`${partPrefix}${format(item)}}\n\n`),
        waitForDrain: () => target.waitForDrain()
      })
      outcome = getOutcome()
    } catch (error) {
      controller.abort(error)
      if (state.outcome === undefined) outcome = this.#limitOutcome(await onError(error), partPrefix)
    } finally {
      for (const source of sources) source.removeEventListener('abort', onAbort)
    }
    return outcome
  }

  /** Runs the producer of a run, and ends the run when it resolves. Resolves with the outcome. */
  async #produce (state: RunState, produce: (signal: AbortSignal) => Promise<RunOutcome | undefined>): Promise<RunOutcome> {
    const abortController = new AbortController()
    // A producer may have any number of parts that use the signal.
    setMaxListeners(0, abortController.signal)
    const listener: RunListener = { onAppend: noop, onEnd: () => { abortController.abort(new RunOver()) }, onAbort: noop }
    state.listeners.add(listener)
    // Another process may have ended it already.
    if (state.outcome !== undefined) listener.onEnd()
    this.#producing.add(state)
    const outcome = await produce(abortController.signal)
    this.#getStore().unfollow(state, listener)
    // The store may have rejected an item before this process has received the end of the run.
    if (outcome?.status !== 'finished') abortController.abort(new RunOver())
    if (outcome !== undefined) await this.#end(state, outcome)
    this.#producing.delete(state)
    this.#resolveIfIdle()
    return (outcome ?? state.outcome) as RunOutcome
  }

  /** Resolves when the producer has ended, with the outcome, or with `undefined` if the run has ended before. */
  async #appendItems (state: RunState, producer: Producer, encode: EncodeData | undefined, signal: AbortSignal): Promise<RunOutcome | undefined> {
    const store = this.#getStore()
    let items = 0
    let characters = 0
    try {
      await pump(producer({ signal }), signal, {
        write: item => {
          const frame = frameRunItem(item, encode)
          items++
          characters += frame.length
          return store.append(state, { frame })
        },
        waitForDrain: () => {
          // Waits also after a quarter of the log's bytes, so that readers get the entries before they are trimmed.
          if (items < ITEMS_PER_TICK && characters * 4 < this.#settings.runLog.bytes) return
          items = characters = 0
          return new Promise(resolve => { setImmediate(resolve) })
        }
      })
      return { status: 'finished' }
    } catch (error) {
      if (state.outcome !== undefined || error instanceof RunOver) return undefined
      logSafely(this.#logger, 'error', { err: error, run: state.shortId }, 'a run has failed')
      return { status: 'failed' }
    }
  }

  /** Ends a run whose producer is in this process. Does not reject. */
  async #end (state: RunState, outcome: RunOutcome): Promise<void> {
    try {
      await this.#getStore().end(state, outcome)
    } catch (error) {
      logSafely(this.#logger, 'error', { err: error, run: state.shortId }, 'the end of a run could not be stored')
    }
  }
}

function assertName (name: unknown): void {
  if (typeof name !== 'string' || name === '' || !name.isWellFormed()) throw new RunInvalid(`The name of a run must be a non-empty, well-formed string; it is ${quote(name)}`)
}

/** Checks the names of the options, and the principal. */
function checkOptions<Options extends FindRunOptions> (options: Options, names: readonly string[]): Options {
  assertOptions(options, names)
  if (options.principal !== undefined && typeof options.principal !== 'string') throw new RunInvalid(`Option "principal" of a run must be a string or undefined; it is ${quote(options.principal)}`)
  return options
}
