import type { FastifyReply, FastifyRequest } from 'fastify'
import { andThen, noop, toPromise, type Awaitable } from '../awaitable.js'
import type { RunOutcome, RunState } from '../store/run-state.js'
import type { DeliverySession } from './deliveries.js'
import type { FollowOptions } from './run-parts.js'
import { sendError } from './send-error.js'
import { sendRun, type RunResponseContext, type RunReplyOptions } from './run-response.js'

/** The status of a run: running, or how it has ended. */
export type RunStatus = 'running' | 'finished' | 'stopped' | 'failed' | 'lost'

/** What a run needs from the registry. */
export interface RunContext extends RunResponseContext {
  follow (run: RunState, target: DeliverySession, options: FollowOptions): Promise<RunOutcome>
  /** A call of the app has failed, and nothing waits for its promise. */
  onUnhandled (error: unknown, call: string, details: { readonly run: string } | { readonly name: string }): void
}

/** An event stream with a log of its own, one producer and any number of readers. It does not depend on connections, and is kept for a while after its end. */
export class Run {
  readonly #state: RunState
  readonly #context: RunContext

  /** @internal */
  constructor (state: RunState, context: RunContext) {
    this.#state = state
    this.#context = context
  }

  /** The id of the run, with which its event ids start. If the run has no principal, whoever has the id can use a route with `resumable` to follow and stop it. */
  get id (): string {
    return this.#state.id
  }

  /** The name that was given to `start`. */
  get name (): string {
    return this.#state.name
  }

  /** The principal to which the run belongs; `undefined` if there is none. */
  get principal (): string | undefined {
    return this.#state.principal
  }

  /** `running`, or how the run has ended: `finished`, `stopped`, `failed`, or `lost` if the process of its producer has closed or failed. */
  get status (): RunStatus {
    return this.#state.outcome?.status ?? 'running'
  }

  /** The reason that was given to `stop`, or `shutdown` if the process of the producer has closed; otherwise `undefined`. */
  get reason (): string | undefined {
    return this.#state.outcome?.reason
  }

  /**
   * Responds to a request with the events of the run. The response ends after the end of the run. A client that disconnects does
   * not stop the run, and continues with the header `Last-Event-ID`. Returns the reply, which a route handler returns.
   * Responds with FST_SSE_RUN_UNKNOWN to the id of an event of another run, and with 204 to a client that has received everything.
   */
  reply (request: FastifyRequest, reply: FastifyReply, options: RunReplyOptions = {}): FastifyReply {
    sendRun(this.#state, this.#context, request, reply, options).catch((error: unknown) => { sendError(reply, error) })
    return reply
  }

  /** @internal Delivers the events of the run in the stream of a session. Resolves with the outcome of the delivery. */
  follow (target: DeliverySession, options: FollowOptions): Promise<RunOutcome> {
    return this.#context.follow(this.#state, target, options)
  }

  /**
   * Stops the run, in any process: the signal of the producer aborts, and all readers receive the end. Resolves when nothing is
   * added any more. Does nothing if the run has ended. Rejects with FST_SSE_STORE_UNAVAILABLE.
   */
  stop (reason?: string): Promise<void> {
    return toPromise((): Awaitable<void> => andThen(this.#context.getStore().end(this.#state, { status: 'stopped', ...reason !== undefined && { reason } }), noop), error => { this.#context.onUnhandled(error, 'run.stop', { run: this.#state.shortId }) })
  }
}
