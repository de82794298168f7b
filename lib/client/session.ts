import type { Contract, DownData, DownEvent, Payload, Received, RequestAnswer, RequestData, RequestEvent, UpResult, UpData, UpEvent, UpValue } from '../contract.js'
import { setTimer } from './backoff.js'
import { CLOSE_TIMEOUT, createConnection, type Welcome } from './connection.js'
import { abortReason, onAbort } from './abort.js'
import { ClientError, createResponseError } from './errors.js'
import { type ConnectOptions, type Platform, type Resolvable } from './options.js'
import { RESPONSE_EVENT, createOutbox, type RequestOptions } from './outbox.js'
import { addPageListeners } from './page.js'
import { createSend } from './send.js'

// Internal event for iterators, with a name that no event of the server can have. Its data is the next event of the server,
// or `undefined` when the session is closed.
const ITERATOR_EVENT = ''
// Maximum number of characters in the unread events of an iterator after the first of them.
const MAX_BUFFER_SIZE = 2 ** 22
// Added to the number of characters of each event's data, because the event itself needs memory, too.
const EVENT_OVERHEAD = 100

/** `connecting` before the first stream, `open` with a stream, `disconnected` between two streams, `closed` at the end. */
export type State = 'connecting' | 'open' | 'disconnected' | 'closed'

/** A part of a run that the server delivers in the stream of a session, or a value of {@link ClientSession.subscribe}. */
export interface Part {
  /** The name of the run. */
  readonly run?: string
  /** The idempotency key of the message whose handler has returned the value. */
  readonly message?: string
  /** The position in the run. To continue after this part, call `session.follow` on the server with this position as `from`. Absent in the last part, and in the parts of a message. */
  readonly position?: number
  /** The name of the event, if it has one. */
  readonly event?: string
  /** The data of the event. */
  readonly data?: unknown
  /** Events of the run are missing: those from position `after` (exclusive) to position `resumedAt` (inclusive). */
  readonly gap?: SessionEvents['gap']
  /** Only in the last part: how the run or the handler has ended. `lost`: the process that has produced the parts, or that has delivered them, has closed or failed, or could not reach the store. */
  readonly end?: { readonly status: 'finished' | 'stopped' | 'failed' | 'lost', readonly reason?: string, readonly response?: { readonly status: number, readonly body: unknown } }
}

/** The client's own events, with their data. */
export interface SessionEvents {
  /** The session is open. The data is that of the `welcome` event. */
  open: Welcome & Record<string, unknown>
  /** The client has resumed the session. The missed events follow, after a `gap` event if the server no longer has all of them. */
  resume: Welcome & Record<string, unknown>
  /** The server no longer had the session and opened a new one. The missed events are lost. */
  reset: Welcome & Record<string, unknown>
  /** The stream is lost, and the client reconnects. The error is a {@link ClientError} with code `ENDED` or `SILENT`, or a network error. */
  disconnect: { readonly error: unknown }
  /** The server no longer has the events from position `after` (exclusive) to position `resumedAt` (inclusive). The reason is `count`, `bytes`, `age` or `store`; with `store`, later events may have arrived before. */
  gap: { readonly after: number, readonly resumedAt: number, readonly reason: string }
  /** A part of a run that the server delivers in this session: an event, a gap, or the end. */
  part: Part
  /**
   * A request for a stream failed and the client tries again; or the data of an event is not JSON; or a message failed, and
   * nobody handles the promise; or the session cannot be shared. Also emitted before `close` if the session failed. Without a listener for it, the client
   * prints errors with `console.error`, except those after which it tries again.
   */
  error: unknown
  /** The session is closed. The reason is that of the server, `replaced` if another stream replaced this one, the code of the error, or else `closed`. */
  close: { readonly reason: string }
}

/** The data of an event, either one of the client's own or one that the server sends. */
export type EventData<C extends Contract, Event> =
  Event extends keyof SessionEvents ? SessionEvents[Event] : DownData<C, Event>

/**
 * A two-way session with the server. It continues when a connection is lost. Its methods need no `this`, so they work when they
 * are destructured, and inside the proxies of frameworks such as Vue.
 */
export interface ClientSession<C extends Contract = Contract> extends AsyncIterable<Received<C>> {
  /** The state of the session and its stream. */
  readonly state: State
  /** The id of the session, which is a secret; `undefined` before the first `welcome` event. */
  readonly sessionId: string | undefined
  /** Aborts when the session is closed. */
  readonly signal: AbortSignal

  /**
   * Adds a listener for an event of the server or of the client. Returns a function that removes it.
   * An error that the listener throws becomes an uncaught error; the session continues.
   */
  on<Event extends DownEvent<C> | keyof SessionEvents> (event: Event, listener: (data: EventData<C, Event>) => void): () => void

  /** Adds a listener for the next event with this name only. Returns a function that removes it. */
  once<Event extends DownEvent<C> | keyof SessionEvents> (event: Event, listener: (data: EventData<C, Event>) => void): () => void

  /** Removes a listener that {@link ClientSession.on} or {@link ClientSession.once} has added, as often as it was added. */
  off<Event extends DownEvent<C> | keyof SessionEvents> (event: Event, listener: (data: EventData<C, Event>) => void): void

  /**
   * Sets the function that handles the requests of the server with this event name; `session.request` on the server resolves with
   * its result, or rejects with its error. Each request is handled once. Returns a function that removes it.
   */
  handle<Event extends RequestEvent<C>> (event: Event, handler: (data: RequestData<C, Event>) => RequestAnswer<C, Event> | Promise<RequestAnswer<C, Event>>): () => void

  /** Sends a message with the default event name, `message`. Resolves when the server has handled it. Rejects like {@link ClientSession.request}. */
  send (...payload: Payload<UpData<C, 'message'>>): Promise<void>

  /** Sends a message with this event name. Resolves when the server has handled it. Rejects like {@link ClientSession.request}. */
  emit<Event extends UpEvent<C>> (event: Event, ...payload: Payload<UpData<C, Event>>): Promise<void>

  /**
   * Sends a message with this event name. Resolves with what its handler returned. The client repeats the message until it
   * gets a response; the server handles it at most once. While there is no stream, messages wait.
   *
   * Rejects with a {@link ClientError}, whose code is `TIMEOUT`, `QUEUE_FULL`, `RESET`, `CLOSED`, the code of the error that
   * closed the session, or that of the response. Rejects with the reason of `signal` if that aborts, and with a `TypeError` if the data
   * cannot be converted to JSON. If nobody handles the rejection, it becomes an `error` event.
   */
  request<Event extends UpEvent<C>> (event: Event, ...payload: Payload<UpData<C, Event>, [options?: RequestOptions]>): Promise<UpResult<C, Event>>

  /**
   * Sends a message with this event name when the loop starts, and iterates over the values that its handler, an async generator, yields. Each value arrives once and in
   * order, also if the stream is lost meanwhile. When the loop ends, or the signal aborts, the handler is stopped.
   *
   * Throws as {@link ClientSession.request}, and throws the reason of the signal. If the handler throws, throws a {@link ClientError} with the
   * code of its error response. Other codes: `NOT_STREAMING` (the handler returned no async iterable), `HANDLER_LOST` (the process of the handler
   * has closed or failed, or the handler was stopped), `INCOMPLETE` (values may be missing), `BUFFER_FULL` (the loop is too slow).
   */
  subscribe<Event extends UpEvent<C>> (event: Event, ...payload: Payload<UpData<C, Event>, [options?: SubscribeOptions]>): AsyncGenerator<UpValue<C, Event>, void, undefined>

  /**
   * Iterates over the events that the app sends from now on, until the session is closed. `gap` and `part` are not included; heartbeats are, if
   * they are events (option `heartbeatEvent`). Throws the error that closed the session, if there is one.
   * Throws a {@link ClientError} with code `BUFFER_FULL` if the events after the next one that the loop reads contain more than 4 Mi characters.
   */
  [Symbol.asyncIterator] (): AsyncGenerator<Received<C>, void, undefined>

  /**
   * Closes the session: at once for the client, then on the server. Messages without a response fail with `CLOSED`.
   * Resolves when the server has responded, or after 5 seconds. Never rejects.
   */
  close (): Promise<void>
}

/** Options of {@link ClientSession.subscribe}. */
export interface SubscribeOptions {
  /** Ends the iteration, and stops the handler. Default: none. Error: the reason of the signal. */
  signal?: AbortSignal | undefined
}

/** The data of an event with a request. */
interface ServerRequest {
  readonly request: string
  readonly event: string
  readonly data: unknown
}

/** An event of the server, and the memory that it needs in a buffer, in characters. */
type BufferedEvent = readonly [received: Received, size: number]

/** Opens a session with the `fetch` of a platform. A closure instead of a class, so that no method needs `this`. */
export function openSession (url: Resolvable<string | URL>, options: ConnectOptions, platform: Platform): ClientSession {
  const { paths: { downward = '/downward', upward = '/upward' } = {}, headers, fetch, credentials, timeout = 60_000, maxQueued = 1000, maxEventSize = 2 ** 24, shared, ...others } = options
  const [unknown] = Object.keys(others)
  if (unknown) throw new ClientError('OPTION_INVALID', `No option ${unknown}`)
  const retrySettings = { retryDelay: 1000 }
  const listeners = new Set<readonly [event: string, listener: (data: never) => void, isOnce: boolean]>()
  // By event name, for requests of the server.
  const handlers = new Map<string, (data: never) => unknown>()
  const abortController = new AbortController()
  let state: State = 'connecting'
  let sessionId: string | undefined
  let closeError: ClientError | undefined
  // Resolves when the server has closed the session; `undefined` if the client has not closed it.
  let deletion: Promise<void> | undefined
  // The next idempotency key, as a number. The tabs that share a session need different ones.
  let nextKey = shared ? Math.random() : 0

  const notify = (event: string, data?: unknown): void => {
    // The copy excludes listeners that are added during the loop. Otherwise one that replaces itself would be called forever.
    for (const entry of [...listeners]) {
      const [name, listener, isOnce] = entry
      if (name !== event || !listeners.has(entry)) continue
      if (isOnce) listeners.delete(entry)
      try {
        listener(data as never)
      } catch (error) {
        queueMicrotask(() => { throw error })
      }
    }
  }

  // Emits an `error` event. Prints the error instead if neither `error` nor `otherEvent` has a listener.
  const reportError = (error: unknown, otherEvent?: string): void => {
    if ([...listeners].some(([event]) => event === 'error' || event === otherEvent)) notify('error', error)
    else console.error(error)
  }

  const finish = (reason: string, error?: ClientError): void => {
    state = 'closed'
    closeError = error ?? new ClientError('CLOSED', `Closed: ${reason}`)
    outbox.close(closeError)
    abortController.abort()
    // The error is not printed if there is an iterator, because the iterator throws it.
    if (error) reportError(error, ITERATOR_EVENT)
    notify('close', { reason })
    notify(ITERATOR_EVENT)
  }

  const notifyIterators = (event: string, data?: unknown, size = 0): void => { notify(ITERATOR_EVENT, [{ event, data }, size + EVENT_OVERHEAD]) }

  const on = (event: string, listener: (data: never) => void, isOnce = false): () => void => {
    // A new entry for each call, so that a function that is added twice can be removed once.
    const entry = [event, listener, isOnce] as const
    listeners.add(entry)
    return () => { listeners.delete(entry) }
  }

  // Answers a request of the server with the result of a function, or with its error.
  const answer = (id: string, handle: () => unknown): void => {
    const send = (content: object): Promise<unknown> => outbox.push(RESPONSE_EVENT, { request: id, ...content }).result.catch((error: unknown) => {
      // After any other error, the server may not have received the answer, for example because the answer was too large.
      if ((error as ClientError | undefined)?.code !== 'FST_SSE_REQUEST_UNKNOWN') throw error
    })
    const sendError = async (error: unknown): Promise<void> => {
      const { code, message = error } = Object(error)
      await send({ error: { code: typeof code === 'string' ? code : undefined, message: String(message) } })
    }
    const sendResult = async (): Promise<unknown> => send({ data: await handle() })
    // The second time, the error is that of `sendError`, for example because the first one has no text form.
    sendResult().catch(sendError).catch(sendError).catch(() => {})
  }

  const off = (event: string, listener: (data: never) => void): void => {
    for (const entry of listeners) if (entry[0] === event && entry[1] === listener) listeners.delete(entry)
  }

  const request = (event: string, data: unknown, options?: RequestOptions): Promise<unknown> => outbox.push(event, data, `${nextKey++}`, options).result

  async function * iterate (accepts: (received: Received) => boolean): AsyncGenerator<Received, void, undefined> {
    // `undefined` after it contained too much.
    let queue: BufferedEvent[] | undefined = []
    let size = 0
    let wake: (() => void) | undefined
    const remove = on(ITERATOR_EVENT, (event?: BufferedEvent) => {
      if (event && queue && accepts(event[0])) {
        size += event[1]
        queue.push(event)
        // The first event may have any size. The loop has not had the time to read it if it is in the same chunk.
        if (size - (queue[0] as BufferedEvent)[1] > MAX_BUFFER_SIZE) queue = undefined
      }
      wake?.()
    })
    try {
      // eslint-disable-next-line no-unmodified-loop-condition -- the listener modifies it
      while (queue) {
        const event = queue.shift()
        if (event) {
          size -= event[1]
          yield event[0]
        } else if (closeError) {
          if (closeError.code !== 'CLOSED') throw closeError
          return
        } else {
          await new Promise<void>(resolve => { wake = resolve })
        }
      }
      throw new ClientError('BUFFER_FULL')
    } finally {
      remove()
    }
  }

  async function * subscribe (name: string, data?: unknown, { signal }: SubscribeOptions = {}): AsyncGenerator<unknown, void, undefined> {
    const id = `s${nextKey++}`
    let end: Part['end'] | undefined
    // The error follows the values that have arrived already.
    const fail = (error: unknown): void => { notifyIterators('part', { message: id, error }) }
    if (signal?.aborted) throw abortReason(signal)
    const { message, result } = outbox.push(name, data, id)
    // If the server may have received the message, the message stays in the queue until it has a response, because the handler can only be stopped after that.
    const removeAbort = signal && onAbort(signal, reason => { (message.uncertain === 0 ? message.reject : fail)(reason) })
    const started = result.then(response => {
      if ((response as Part | null | undefined)?.message !== id) throw new ClientError('NOT_STREAMING')
    }).catch(fail)
    // Before the message was sent, a gap contains no values.
    const accepts = ({ event, data }: Received): boolean => event === 'gap' ? message.uncertain > 0 : event === 'part' && (data as Part).message === id
    try {
      for await (const { event, data } of iterate(accepts)) {
        if (event === 'gap') throw new ClientError('INCOMPLETE')
        const part = data as Part & { error?: unknown }
        if ('error' in part) throw part.error
        end = part.end
        if (end) {
          const { status, response } = end
          if (status === 'finished') return
          throw response ? createResponseError(response) : new ClientError('HANDLER_LOST', status)
        }
        yield part.data
      }
      throw closeError
    } finally {
      removeAbort?.()
      // This message, which stops the handler, is sent after the response. Otherwise, the server could handle it before the message that starts the handler.
      if (!end && message.uncertain > 0) started.then(() => outbox.push('part', { message: id }).result).catch(() => {})
    }
  }

  // `opening` is set if a request for a stream may still open another session.
  const deleteSessions = async (opening?: Promise<string | undefined>): Promise<void> => {
    const controller = new AbortController()
    const timer = setTimer(() => { controller.abort() }, CLOSE_TIMEOUT)
    let deleted: string | undefined
    await Promise.all([sessionId, opening].map(async pending => {
      const id = await pending
      if (!id || id === deleted) return
      deleted = id
      // With `keepalive`, the request continues when the page is closed. If the request fails, the session expires on the server.
      await send(downward, { method: 'DELETE', headers: { 'x-session-id': id }, keepalive: true, signal: controller.signal }).catch(() => {})
    }))
    clearTimeout(timer)
  }

  const close = async (): Promise<void> => {
    if (state !== 'closed') {
      // Set before the listeners of `close` run, because they may call this function, too.
      deletion = deleteSessions(connection.stop() ? running : undefined)
      finish('closed')
    }
    await deletion
  }

  const urls = new Map<string, string>()
  const send = createSend(url, options, platform, urls, abortController.signal, reportError)
  const outbox = createOutbox(send, upward, { timeout, maxQueued }, retrySettings, {
    onStale: () => { if (state === 'open') connection.reconnect() },
    reportError
  })
  const connection = createConnection(send, downward, maxEventSize, retrySettings, {
    onWelcome: welcome => {
      const event = welcome.resumed ? 'resume' : sessionId ? 'reset' : 'open'
      state = 'open'
      sessionId = welcome.sessionId
      outbox.resume(welcome)
      notify(event, welcome)
      if (event === 'reset') notifyIterators('gap')
    },
    onEvent: (event, data, size, acknowledgement) => {
      if (event === 'request') {
        const { request, event, data: input } = data as ServerRequest
        answer(request, () => {
          const handler = handlers.get(event)
          if (!handler) throw new ClientError('UNHANDLED')
          return handler(input as never)
        })
      } else {
        notify(event, data)
        notifyIterators(event, data, size)
      }
      if (acknowledgement) answer(acknowledgement, () => {})
    },
    onError: error => {
      outbox.pause(error)
      if (state === 'open') {
        state = 'disconnected'
        notify('disconnect', { error })
      } else {
        notify('error', error)
      }
    },
    reportError,
    onClose: (reason, error) => {
      // After an error status, the server has closed the session or refuses the requests of this client.
      if (error && !error.status) deletion = deleteSessions()
      finish(reason, error)
    }
  })
  addPageListeners(connection, urls, close, abortController.signal)
  const running = connection.run()

  const session: Omit<ClientSession, 'sessionId'> = {
    get state () { return state },
    signal: abortController.signal,
    on: (event: string, listener: (data: never) => void) => on(event, listener),
    once: (event: string, listener: (data: never) => void) => on(event, listener, true),
    off,
    handle (event: string, handler: (data: never) => unknown) {
      handlers.set(event, handler)
      return () => { if (handlers.get(event) === handler) handlers.delete(event) }
    },
    send: (data?: unknown) => request('message', data) as Promise<void>,
    emit: request as ClientSession['emit'],
    request: request as ClientSession['request'],
    subscribe: subscribe as ClientSession['subscribe'],
    close,
    [Symbol.asyncIterator]: () => iterate(({ event }) => event !== 'gap' && event !== 'part')
  }
  // Not enumerable, because a secret must not be part of a copy or a log.
  return Object.defineProperty(session, 'sessionId', { get: () => sessionId }) as ClientSession
}

/**
 * Opens a session. `url` is the prefix of the plugin's routes, for example `/chat`, or a function that returns it, which is
 * called before each request. The client reconnects until the session is closed. It reports errors with the events
 * `error` and `close`, see {@link SessionEvents}. Throws a {@link ClientError} with code `OPTION_INVALID` if an option does not exist.
 */
export function connect<C extends Contract = Contract> (url: Resolvable<string | URL>, options: ConnectOptions = {}): ClientSession<C> {
  return openSession(url, options, {}) as unknown as ClientSession<C>
}
