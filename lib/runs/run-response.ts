import type { FastifyReply, FastifyRequest } from 'fastify'
import { noop } from '../awaitable.js'
import { Closing, RunUnknown } from '../errors.js'
import { logSafely } from '../safe-log.js'
import type { RunListener, RunOutcome, RunState } from '../store/run-state.js'
import type { RunSource, RunStore } from '../store/run-store.js'
import { isPipelined, waitForConnection } from '../stream/pipelined-response.js'
import { ResponseSink, StreamPayload } from '../stream/response-sink.js'
import { StreamWriter, type StreamOwner } from '../stream/stream-writer.js'
import { formatEventId, parseEventId } from '../wire/event-id.js'
import { addId, frameGap, frameId, frameRetry, frameRunEnd, type Gap } from '../wire/frame.js'
import { LAST_EVENT_ID, STREAM_HEADERS } from '../wire/headers.js'
import { assertFunctions, assertRunOptions } from './run-options.js'

/** Options of `run.reply`. */
export interface RunReplyOptions {
  /**
   * Where a reader without the header `Last-Event-ID` starts: `start`, the beginning of the run; `now`, what is added from now
   * on; or after the event with an id. A reader with the header continues after the event with that id. Default: `start`.
   */
  readonly from?: string | undefined
  /**
   * Returns the last events of the response, in the format of SSE, for example `data: [DONE]\n\n`. An empty string ends the response
   * without an event. Default: an event `end` with the outcome as its data.
   */
  readonly finalFrame?: (outcome: RunOutcome) => string
  /**
   * Returns the events for a reader that has missed a part of the run, because the log does not contain it any more, in the
   * format of SSE, or an empty string for none. Default: a `gap` event with the range.
   */
  readonly gapFrame?: (gap: Gap) => string
}

/** What readers need from the registry of runs. */
export interface RunResponseContext {
  getStore (): RunStore
  isClosing (): boolean
  /** Milliseconds that a client should wait before it reconnects. */
  createRetryDelay (): number
  onStreamOpen (stream: StreamWriter): void
  onStreamClose (stream: StreamWriter): void
}

const OPTIONS = ['from', 'finalFrame', 'gapFrame']

/** Responds to a request with the events of a run. */
export async function sendRun (run: RunState, context: RunResponseContext, request: FastifyRequest, reply: FastifyReply, options: RunReplyOptions): Promise<void> {
  assertRunOptions(options, OPTIONS)
  const sink = new ResponseSink(reply.raw)
  const cursor = parseStart(run, request.headers[LAST_EVENT_ID], options.from)
  // With HTTP pipelining, one connection could have any number of readers, although its client receives only one response at a time.
  if (isPipelined(reply.raw) && !await waitForConnection(reply.raw)) {
    request.raw.socket.destroy()
    return
  }
  if (context.isClosing()) throw new Closing()
  if (cursor !== Infinity && cursor >= run.endPosition) {
    // [WHATWG HTML 9.2.1] The client has received everything. A 204 makes an EventSource stop reconnecting.
    reply.code(204).send()
    return
  }
  const reader = new RunResponse(run, context, options)
  const source = await context.getStore().follow(run, cursor, reader)
  if (source === undefined) throw new RunUnknown()
  const unfollow = (): void => { context.getStore().unfollow(run, reader) }
  if (sink.closed) {
    unfollow()
    return
  }
  // Removes the reader if the client disconnects before the response starts, or if a hook replaces the response.
  sink.listener = { onDrain: noop, onClose: unfollow }
  reply.headers(STREAM_HEADERS)
  new StreamPayload(sink, () => { reader.start(source, cursor, sink, request) }).sendPiped(reply)
}

/** Returns the position after which a reader starts; `Infinity` for the newest one. Throws FST_SSE_RUN_UNKNOWN for the id of an event of another run. */
function parseStart (run: RunState, lastEventId: string | string[] | undefined, from = 'start'): number {
  const id = typeof lastEventId === 'string' && lastEventId !== '' ? lastEventId : from
  if (id === 'start') return run.startPosition
  if (id === 'now') return Infinity
  const eventId = parseEventId(id)
  if (eventId?.id !== run.id || eventId.position < run.startPosition) throw new RunUnknown()
  return eventId.position
}

/** A response that follows a run. */
class RunResponse implements StreamOwner, RunListener {
  readonly #run: RunState
  readonly #context: RunResponseContext
  readonly #finalFrame: (outcome: RunOutcome) => string
  readonly #gapFrame: ((gap: Gap) => string) | undefined
  #stream: StreamWriter | undefined

  constructor (run: RunState, context: RunResponseContext, { finalFrame = frameRunEnd, gapFrame }: RunReplyOptions) {
    assertFunctions({ finalFrame, gapFrame })
    this.#run = run
    this.#context = context
    this.#finalFrame = finalFrame
    this.#gapFrame = gapFrame
  }

  get canWrite (): boolean {
    return this.#run.canWrite
  }

  start ({ log, cursor }: RunSource, requestedCursor: number, sink: ResponseSink, { log: logger }: FastifyRequest): void {
    const stream = new StreamWriter({ readerId: this.#run.id, ranges: [{ log, from: cursor, to: Infinity }], cursor, sink, owner: this, logger, formatGap: this.#formatGap })
    this.#stream = stream
    this.#context.onStreamOpen(stream)
    logSafely(logger, 'info', { run: this.#run.shortId }, 'event stream of a run opened')
    // The requested cursor is after the newest position only if the store has lost positions that the client has received.
    const rollback: Gap | undefined = requestedCursor > cursor && requestedCursor !== Infinity ? { after: requestedCursor, resumedAt: cursor, reason: 'store' } : undefined
    const id = formatEventId(this.#run.id, cursor)
    stream.start(frameRetry(this.#context.createRetryDelay()) + (rollback === undefined ? frameId(id) : this.#formatGap(this.#run.id, cursor, rollback)))
    if (this.#run.outcome !== undefined) this.onEnd()
  }

  onAppend (): void {
    this.#stream?.onAppend()
  }

  onEnd (): void {
    const { id, endPosition, outcome } = this.#run
    this.#stream?.end({ finalFrame: () => this.#format('finalFrame', () => this.#finalFrame(outcome as RunOutcome), formatEventId(id, endPosition)), reason: String(outcome?.status), drain: true })
  }

  onAbort (): void {
    this.#stream?.abort()
  }

  onProgress (): void {}

  onGap (): void {}

  onStreamClose (stream: StreamWriter): void {
    const duration = Math.round(performance.now() - stream.openedAt)
    logSafely(stream.logger, 'info', { run: this.#run.shortId, reason: stream.reason, duration }, 'event stream of a run ended')
    this.#context.getStore().unfollow(this.#run, this)
    this.#context.onStreamClose(stream)
  }

  readonly #formatGap = (runId: string, cursor: number, gap: Gap): string => {
    const gapFrame = this.#gapFrame
    if (gapFrame === undefined) return frameGap(runId, cursor, gap)
    const frame = this.#format('gapFrame', () => gapFrame(gap), formatEventId(runId, cursor))
    if (frame === undefined) this.onAbort()
    return frame ?? ''
  }

  /** Calls a function of the app that formats events. If it fails, returns `undefined`. */
  #format (name: string, format: () => string, id: string): string | undefined {
    try {
      return addId(format(), id, name)
    } catch (error) {
      logSafely((this.#stream as StreamWriter).logger, 'error', { err: error, run: this.#run.shortId }, `the option "${name}" of a run failed`)
      return undefined
    }
  }
}
