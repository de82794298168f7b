import { setMaxListeners } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { assertKeep } from '../assert-options.js'
import { andThen, cleanUpAfterError, noop, settlesWithin, toPromise, type Awaitable } from '../awaitable.js'
import { Closing, IdempotencyKeyReused, quote, RunInvalid, RunOver, RunsUnsupported, TooManyRuns } from '../errors.js'
import type { LogBounds } from '../log/log.js'
import { logSafely } from '../safe-log.js'
import type { RunListener, RunOutcome, RunRestart, RunState } from '../store/run-state.js'
import type { Reuse, RunStore } from '../store/run-store.js'
import { Heartbeat } from '../stream/heartbeat.js'
import { pump } from '../stream/pump.js'
import type { StreamWriter } from '../stream/stream-writer.js'
import { IdGenerator } from '../wire/event-id.js'
import { frameRunItem, HEARTBEAT_FRAME, serialize, splitFrame, type EncodeData } from '../wire/frame.js'
import { Deliveries, type DeliveryContext, type RunWork } from './deliveries.js'
import { Requests } from './requests.js'
import { assertFunctions, assertRunOptions } from './run-options.js'
import { Run, type RunContext } from './run.js'

/** What a producer receives. */
export interface ProducerContext {
  /** Aborts when the run is stopped, fails or is lost, and if it has not ended within `closeTimeout` when the server closes. */
  readonly signal: AbortSignal
}

/** Returns the events of a run: usually an async generator function. An item `{ event, data }` is an event with a name, every other item is the data of an event. */
export type Producer = (context: ProducerContext) => AsyncIterable<unknown> | Iterable<unknown>

/** An event of a run. */
export interface RunEvent {
  /** The name; `undefined` for an event without one. */
  readonly event: string | undefined
  readonly data: unknown
}

/** What the producer of a run that can be restarted receives. */
export interface RestartableContext extends ProducerContext {
  /**
   * The events that the run has when the producer starts, the oldest first: none the first time; after a restart, those that the
   * log of the run still contains. The producer continues after the last one.
   */
  readonly events: readonly RunEvent[]
}

/** As {@link Producer}, with the input that the run was started with. */
export type RestartableProducer<Input> = (input: Input, context: RestartableContext) => AsyncIterable<unknown> | Iterable<unknown>

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
   * What the call does if a run with the same name and principal exists. `running`: returns it if it has not ended. `kept`: returns it, also
   * if it has ended. `never`: rejects with FST_SSE_RUN_EXISTS if it has not ended. Otherwise, a new run is started. Default: `running`.
   */
  readonly reuse?: Reuse
  /** Encodes the data of each event. Default: as JSON. */
  readonly encode?: EncodeData
}

/** The plugin options that runs use. */
export interface RunSettings {
  readonly handlerTimeout: number
  readonly heartbeatInterval: number | false
  readonly log: LogBounds
  readonly runLog: LogBounds
  readonly maxRuns: number
  readonly maxWaitingMessages: number
}

/** Key of the {@link RunRestart} of a producer that can be restarted. */
const kRestart = Symbol('fastify-sse-sessions restart')

const DEFAULT_KEEP = 300_000
const REUSE: readonly unknown[] = ['running', 'kept', 'never']
const FIND_OPTIONS = ['principal']
const START_OPTIONS = ['principal', 'keep', 'reuse', 'encode']
/** Number of items after which the producer waits one tick, so that the streams of its readers are written. */
const ITEMS_PER_TICK = 64
/** Milliseconds that `close` waits for the store. */
const STORE_TIMEOUT = 100

/** The registry of runs. */
export class Runs {
  /** @internal */
  readonly deliveries: Deliveries
  /** @internal */
  readonly requests: Requests
  readonly #settings: RunSettings
  readonly #logger: FastifyBaseLogger
  readonly #store: RunStore | undefined
  readonly #context: RunContext
  readonly #heartbeat: Heartbeat
  readonly #ids = new IdGenerator()
  readonly #streams = new Set<StreamWriter>()
  /** The runs whose work is done in this process, by the listener of the work. */
  readonly #active = new Map<RunListener, RunState>()
  /** Number of runs that are being started. */
  #starting = 0
  /** The producers that can be restarted, by name. */
  readonly #restartable = new Map<string, RestartableProducer<never>>()
  /** The names of the producers whose runs this process may restart: none when it closes. */
  readonly #restartableNames = new Set<string>()
  /** Aborts when the server closes. This ends the deliveries of runs to sessions, which another process can start again, and the requests to clients. */
  readonly #closeController = new AbortController()
  /** Resolves the promise for which `close` waits. */
  #onIdle: () => void = noop

  /** @internal `store` is `undefined` if the store of the app does not support runs. */
  constructor (settings: RunSettings, logger: FastifyBaseLogger, store: RunStore | undefined, { createRetryDelay, onUnhandled }: Pick<RunContext, 'createRetryDelay' | 'onUnhandled'>) {
    this.#settings = settings
    this.#logger = logger
    this.#store = store
    setMaxListeners(0, this.#closeController.signal)
    this.#heartbeat = new Heartbeat(settings.heartbeatInterval, HEARTBEAT_FRAME, this.#streams)
    const deliveryContext: DeliveryContext = {
      log: settings.log,
      logger,
      // As many as messages whose handlers run or wait.
      maxDeliveries: settings.maxWaitingMessages + 1,
      ids: this.#ids,
      closeSignal: this.#closeController.signal,
      getStore: () => this.#getStore(),
      whileStarting: start => this.#whileStarting(start),
      execute: (state, work) => this.#execute(state, work)
    }
    this.deliveries = new Deliveries(deliveryContext)
    this.requests = new Requests(deliveryContext, this.deliveries)
    store?.handleRestarts?.(this.#restartableNames, state => { this.#restart(state) })
    this.#context = {
      getStore: () => this.#getStore(),
      isClosing: () => this.closing,
      createRetryDelay,
      onUnhandled,
      follow: (run, target, options) => this.deliveries.follow(run, target, options),
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
    return toPromise(() => this.startWithFingerprint(name, options, undefined, producer), error => { this.#context.onUnhandled(error, 'runs.start', { name }) })
  }

  /**
   * Registers a producer that can be restarted in another process. Returns a function that creates it for an input, for {@link start}
   * or `reply.events`. With a shared store, when the process of such a run fails or closes, another one that has registered the name calls
   * the producer with the same input. The producer continues after the {@link RestartableContext.events} that the run has. The
   * streams of its readers continue. If no process restarts the run within the time of a lease, or its process fails a fourth time, the run ends
   * as `lost`. The input must be JSON. Throws FST_SSE_RUN_INVALID if the name is used; the returned function throws FST_SSE_DATA_INVALID.
   */
  restartable<Input> (name: string, producer: RestartableProducer<Input>): (input: Input) => Producer {
    if (typeof name !== 'string' || name === '' || !name.isWellFormed()) throw new RunInvalid(`The name of a producer must be a non-empty, well-formed string; it is ${quote(name)}`)
    if (typeof producer !== 'function') throw new RunInvalid('A producer must be a function that returns an iterable, usually an async generator function')
    if (this.#restartable.has(name)) throw new RunInvalid(`The producer "${name}" is already registered; choose another name`)
    this.#restartable.set(name, producer)
    this.#restartableNames.add(name)
    return input => {
      const restart: RunRestart = { producer: name, input: serialize(input) }
      // The input is copied through JSON, so that the producer gets the same as after a restart.
      return Object.assign(({ signal }: ProducerContext) => producer(JSON.parse(restart.input) as Input, { signal, events: [] }), { [kRestart]: restart })
    }
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

  /** @internal Finds the run that an earlier request has started. Throws or rejects with FST_SSE_IDEMPOTENCY_KEY_REUSED if that request had another fingerprint. */
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

  /** @internal Starts a run. `fingerprint` identifies the URL and the body of the request, which a repeat with the same idempotency key must have, too. Otherwise, rejects with FST_SSE_IDEMPOTENCY_KEY_REUSED. */
  startWithFingerprint (name: string, options: StartRunOptions, fingerprint: string | undefined, producer: Producer): Awaitable<Run> {
    assertName(name)
    const { principal, keep = DEFAULT_KEEP, reuse = 'running', encode } = checkOptions(options, START_OPTIONS)
    assertKeep(keep, 'a run', RunInvalid)
    assertFunctions({ encode })
    if (!REUSE.includes(reuse)) throw new RunInvalid(`Option "reuse" of a run must be "running", "kept" or "never"; it is ${quote(reuse)}`)
    if (typeof producer !== 'function') throw new RunInvalid('The producer of a run must be a function that returns an iterable, usually an async generator function')
    const { [kRestart]: restart } = producer as Producer & { [kRestart]?: RunRestart }
    if (restart !== undefined && encode !== undefined) throw new RunInvalid('Option "encode" of a run must be removed if the producer is restartable: another process does not have this function')
    if (this.closing) throw new Closing()
    const id = this.#ids.next()
    return this.#whileStarting(() => andThen(this.#getStore().start({ id, name, principal, fingerprint, keep, ...encode !== undefined && { isText: true }, ...restart !== undefined && { restart } }, reuse), state => {
      if (state === undefined) throw new TooManyRuns(this.#settings.maxRuns)
      // Another process may have stopped the run already.
      if (state.id === id && state.outcome === undefined) this.#execute(state, signal => this.#appendItems(state, producer, encode, signal))
      return new Run(state, this.#context)
    }))
  }

  /** @internal Waits until all runs of this process have ended and their readers have received everything, at most for a time in milliseconds. Then ends the rest. */
  async close (timeout: number): Promise<void> {
    this.#closeController.abort(new Closing())
    this.#restartableNames.clear()
    const idle = new Promise<void>(resolve => { this.#onIdle = resolve })
    this.#resolveIfIdle()
    await settlesWithin(idle, timeout)
    this.#heartbeat.stop()
    // Before the runs end, so that clients get an error instead of a response that looks complete.
    for (const stream of this.#streams) stream.abort()
    const ends = [...this.#active.values()].map(state => this.#endAtClose(state))
    await settlesWithin(Promise.all(ends), STORE_TIMEOUT)
  }

  /** @internal */
  get maxRuns (): number {
    return this.#settings.maxRuns
  }

  /** @internal */
  get handlerTimeout (): number {
    return this.#settings.handlerTimeout
  }

  /** @internal Whether no run can start any more. */
  get closing (): boolean {
    return this.#closeController.signal.aborted
  }

  #getStore (): RunStore {
    if (this.#store === undefined) throw new RunsUnsupported()
    return this.#store
  }

  #resolveIfIdle (): void {
    if (this.#streams.size === 0 && this.#active.size === 0 && this.#starting === 0) this.#onIdle()
  }

  /** Calls a function that starts a run. `close` waits until it has settled. */
  #whileStarting<Value> (start: () => Awaitable<Value>): Awaitable<Value> {
    const onSettled = (): void => {
      this.#starting--
      this.#resolveIfIdle()
    }
    this.#starting++
    return cleanUpAfterError(() => andThen(start(), value => {
      onSettled()
      return value
    }), onSettled)
  }

  /** Does the work of a run, and ends the run with the outcome that the work resolves with. If that is `undefined`, waits until the run has ended or was released. Resolves with the outcome. */
  async #execute (state: RunState, work: RunWork): Promise<RunOutcome> {
    const abortController = new AbortController()
    // A producer may add any number of listeners to the signal.
    setMaxListeners(0, abortController.signal)
    let onEnd: () => void = noop
    const ended = new Promise<void>(resolve => {
      onEnd = () => {
        resolve()
        abortController.abort(new RunOver())
      }
    })
    const listener: RunListener = { onAppend: noop, onEnd, onAbort: onEnd }
    state.listeners.add(listener)
    // Another process may have ended it already.
    if (state.outcome !== undefined) onEnd()
    this.#active.set(listener, state)
    const outcome = await work(abortController.signal)
    if (outcome?.status !== 'finished') abortController.abort(new RunOver())
    // The store may reject an item before this process has received the end of the run.
    await (outcome === undefined ? ended : this.#end(state, outcome))
    this.#getStore().unfollow(state, listener)
    this.#active.delete(listener)
    this.#resolveIfIdle()
    return outcome ?? state.outcome as RunOutcome
  }

  /** Appends the items of a producer to the log. Resolves with the outcome when the producer has ended, or with `undefined` if the run was ended elsewhere. */
  async #appendItems (state: RunState, producer: Producer, encode: EncodeData | undefined, signal: AbortSignal): Promise<RunOutcome | undefined> {
    const store = this.#getStore()
    let items = 0
    let characters = 0
    // Whether the store has rejected an item because this run has ended. The producer itself may throw a RunOver of another run.
    let isOver = false
    try {
      await pump(producer({ signal }), signal, {
        write: item => {
          const frame = frameRunItem(item, encode)
          items++
          characters += frame.length
          return cleanUpAfterError(() => store.append(state, { frame }), error => { isOver = error instanceof RunOver })
        },
        waitForDrain: () => {
          // Waits also after a quarter of the log's bytes, so that readers get the entries before they are trimmed.
          if (items < ITEMS_PER_TICK && characters * 4 < this.#settings.runLog.bytes) return
          items = characters = 0
          return new Promise(resolve => { setImmediate(resolve) })
        },
        onLateError: error => { logSafely(this.#logger, 'warn', { err: error, run: state.shortId }, 'a producer failed after its run had ended') }
      })
      return { status: 'finished' }
    } catch (error) {
      if (signal.aborted || isOver) return undefined
      logSafely(this.#logger, 'error', { err: error, run: state.shortId }, 'a run has failed')
      return { status: 'failed' }
    }
  }

  /** Continues a run whose process has failed or closed. */
  #restart (state: RunState): void {
    const { producer: name, input } = state.restart as RunRestart
    const producer = this.#restartable.get(name) as RestartableProducer<unknown>
    logSafely(this.#logger, 'info', { run: state.shortId }, 'a run is restarted')
    this.#execute(state, async signal => {
      let events: readonly RunEvent[]
      try {
        this.#closeController.signal.throwIfAborted()
        events = await readEvents(state, this.#getStore())
      } catch (error) {
        logSafely(this.#logger, 'warn', { err: error, run: state.shortId }, 'a run could not be restarted')
        await this.#release(state)
        return undefined
      }
      return await this.#appendItems(state, ({ signal }) => producer(JSON.parse(input), { signal, events }), undefined, signal)
    })
  }

  /** Ends a run when this process closes, or releases it, so that another process can restart it. Does not reject. */
  async #endAtClose (state: RunState): Promise<void> {
    if (state.restart === undefined || this.#getStore().release === undefined) await this.#end(state, { status: 'lost', reason: 'shutdown' })
    else await this.#release(state)
  }

  /** Lets another process restart a run. If the store fails, it does that later. Does not reject. */
  async #release (state: RunState): Promise<void> {
    try {
      await this.#getStore().release?.(state)
    } catch (error) {
      logSafely(this.#logger, 'error', { err: error, run: state.shortId }, 'a run could not be released')
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

/** Returns the events that the log of a run contains. */
async function readEvents (run: RunState, store: RunStore): Promise<RunEvent[]> {
  const listener: RunListener = { onAppend: noop, onEnd: noop, onAbort: noop }
  const source = await store.follow(run, run.startPosition, listener)
  if (source === undefined) return []
  const { log } = source
  const events: RunEvent[] = []
  for (let index = log.indexAfter(source.cursor); index < log.end; index++) {
    const { event, data } = splitFrame(log.frameAt(index))
    events.push({ event, data: JSON.parse(data) })
  }
  store.unfollow(run, listener)
  return events
}

function assertName (name: unknown): void {
  if (typeof name !== 'string' || name === '' || !name.isWellFormed()) throw new RunInvalid(`The name of a run must be a non-empty, well-formed string; it is ${quote(name)}`)
}

/** Checks the names of the options, and the principal. */
function checkOptions<Options extends FindRunOptions> (options: Options, names: readonly string[]): Options {
  assertRunOptions(options, names)
  if (options.principal !== undefined && typeof options.principal !== 'string') throw new RunInvalid(`Option "principal" of a run must be a string or undefined; it is ${quote(options.principal)}`)
  return options
}
