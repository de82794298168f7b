import type { LogListener } from '../log/log.js'

/** What the client has answered to a request: `data`, or `error` if it could not handle the request. */
export interface Answer {
  readonly data?: unknown
  readonly error?: { readonly code?: string, readonly message: string }
}

/** How a run has ended. */
export interface RunOutcome {
  /** `finished`: the producer has ended. `stopped`: `stop` was called, the session of the delivery was closed, or nobody needs the answer of the request any more. `failed`: the producer has thrown. `lost`: its process has closed or failed, or has lost the store. */
  readonly status: 'finished' | 'stopped' | 'failed' | 'lost'
  /** The reason that was given to `stop`, or `shutdown` if the process of the producer has closed. */
  readonly reason?: string
  /** The error response, if the iterable that a handler returned has thrown. */
  readonly response?: object
  /** The answer of the client, if the run is that of a request. */
  readonly answer?: Answer
}

/** What a delivery sends to a session. */
export interface DeliveryTarget {
  readonly sessionId: string
  /**
   * The start of the frame of each item, without the properties of the item: `event: part\ndata: {"run":"a",`. At the end of the run, the
   * store MUST append an entry, unless the session is closed: this prefix, `"end":`, the outcome as JSON, and `}\n\n`.
   */
  readonly partPrefix?: string
  /** A request to the client, which the store MUST append when it creates the run. The answer of the client ends the run. */
  readonly request?: string
}

/** How another process can restart a run: the name of the producer, and its input as JSON. */
export interface RunRestart {
  readonly producer: string
  readonly input: string
}

/** What a store needs to create a run. */
export interface RunInput {
  readonly id: string
  readonly name: string
  readonly principal: string | undefined
  /** A hash of what the run was started with. A start that finds a run with another fingerprint is refused. */
  readonly fingerprint: string | undefined
  /** Milliseconds for which the run is kept after its end. */
  readonly keep: number
  /** Whether the data of the events is text; otherwise, it is JSON. */
  readonly isText?: boolean
  /**
   * Makes this the run of a delivery: its entries are appended to the log of the session. It has no readers, does not count for
   * `maxRuns`, and is not kept.
   */
  readonly delivery?: DeliveryTarget
  /** Makes this a run that another process can restart, see {@link RunStore.handleRestarts}. */
  readonly restart?: RunRestart
}

/** What the store calls when a run changes: the listener of its producer, or of a reader in this process. */
export interface RunListener extends LogListener {
  /** The run has ended; `RunState.outcome` says how. Everything that was appended before is in the log when `canWrite` is true. */
  onEnd (): void
  /**
   * For a reader: this process has not reached the store for so long that its client should continue in another process. The response
   * must be aborted. For a producer: the run continues, but not here, because it was released or restarted.
   */
  onAbort (): void
}

/** The state of a run in this process. Only the store changes it, but the registry adds the producer to `listeners`. */
export class RunState implements LogListener {
  readonly name: string
  readonly principal: string | undefined
  readonly fingerprint: string | undefined
  readonly keep: number
  readonly isText: boolean
  readonly delivery: DeliveryTarget | undefined
  readonly restart: RunRestart | undefined
  /** The newest position of the store when the run was started. */
  readonly startPosition: number
  /** How the run has ended; `undefined` while it is running. */
  outcome: RunOutcome | undefined
  /** The position of the end: higher than that of every entry. `Infinity` while the run is running. */
  endPosition = Infinity
  readonly listeners = new Set<RunListener>()
  readonly #id: string

  constructor ({ id, name, principal, fingerprint, keep, isText = false, delivery, restart }: RunInput, startPosition: number) {
    this.#id = id
    this.name = name
    this.principal = principal
    this.fingerprint = fingerprint
    this.keep = keep
    this.isText = isText
    this.delivery = delivery
    this.restart = restart
    this.startPosition = startPosition
  }

  // A getter, because loggers print properties. Without a principal, the id is enough to read and stop the run.
  get id (): string {
    return this.#id
  }

  /** The first characters of the id, for logs. */
  get shortId (): string {
    return this.#id.slice(0, 6)
  }

  /** Whether the readers of the run may write now. A shared store overrides this. */
  get canWrite (): boolean {
    return true
  }

  onAppend (): void {
    for (const listener of this.listeners) listener.onAppend()
  }
}
