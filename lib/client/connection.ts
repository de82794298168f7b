import { withAbort } from './abort.js'
import { createBackoff, setTimer, type RetrySettings } from './backoff.js'
import { ClientError, createResponseError, isRequestError, isTransient, parseRetryAfter } from './errors.js'
import { createParser, OVERHEAD } from './event-stream-parser.js'
import { IDLE_TIMEOUT, isOffline } from './network.js'
import type { Send } from './send.js'

/** Receives what happens on a connection. */
export interface ConnectionListener {
  /** A stream was opened. */
  onWelcome (welcome: Welcome): void
  /** `size` is the number of characters of the data. `request`, if it is not empty, is the id with which the server expects an acknowledgement. */
  onEvent (name: string, data: unknown, size: number, request: string): void
  /** The request for a stream failed, or the stream was lost. Another request follows. */
  onError (error: unknown): void
  /** The data of an event is not JSON. The stream continues. */
  reportError (error: unknown): void
  /** The session is closed; `error` is set if it failed. */
  onClose (reason: string, error?: ClientError): void
}

/** The data of the `welcome` event, with which the server starts each stream. */
export interface Welcome {
  readonly sessionId: string
  readonly resumed: boolean
  /** Time between two heartbeats, in milliseconds; absent if the server sends none. */
  readonly heartbeatInterval?: number
  /** The event names of the messages that the server handles without waiting for others; absent if there are none. */
  readonly concurrent?: readonly string[]
}

// Number of heartbeat intervals without data after which a stream counts as dead. Before the welcome event, `IDLE_TIMEOUT` applies.
const IDLE_HEARTBEATS = 2.5
// Maximum time for which `close` waits for the server, in milliseconds.
export const CLOSE_TIMEOUT = 5000
// Milliseconds without data after which a request counts as dead if the network has just become available, and by which a heartbeat may be late after `probe`.
const PROBE_TIMEOUT = 4000
// Milliseconds for which the client tries again while it receives responses that are not from the server.
const FOREIGN_TIMEOUT = 60_000

/** Keeps one event stream open. Resumes it after the last received event. Has at most one request at a time. */
export interface Connection {
  /** Opens one stream after the other until the session is closed. Resolves with the id of the last session. */
  run (): Promise<string | undefined>
  /** Replaces the current stream. Skips the delay before the next one, unless the current one is younger than `retryDelay`. */
  reconnect (): void
  /** Replaces the current stream or request, because the network is available again and the old connection may be dead. */
  onOnline (): void
  /**
   * Checks the stream after a change of the network, or after a time in which timers may not have run: replaces it if the next
   * heartbeat is late. Ends the current delay, if the connection is between two streams.
   */
  probe (): void
  /**
   * Ends the stream and all retries, without a call of the listener. A request that has not opened a stream yet continues
   * for `CLOSE_TIMEOUT`, so that the session that it opens can be closed: returns `true`, and `run` resolves with its id.
   */
  stop (): boolean
  /** Closes the session because of an error. */
  fail (error: ClientError): void
}

export function createConnection (send: Send, path: string, maxEventSize: number, retrySettings: RetrySettings, listener: ConnectionListener): Connection {
  const backoff = createBackoff(retrySettings)
  let controller: AbortController
  let isStopped = false
  let skipsDelay = false
  let retryAfter: number
  let lastEventId = ''
  // The last event id that the current request contains.
  let requestedId: string
  let currentSessionId: string | undefined
  // Whether the current request was sent, and may open a session.
  let isOpening = false
  // Time of the first response of the current series of responses that are not from the server, by a clock that nobody can set; `undefined` if there is no such series.
  let foreignSince: number | undefined
  // The idle timeout of the next request, until its welcome event.
  let attemptTimeout = IDLE_TIMEOUT
  let idleTimeout: number
  let startedAt: number
  let lastDataAt: number
  // Of the latest response.
  let reader: ReadableStreamDefaultReader<Uint8Array> | undefined
  let idleTimer: ReturnType<typeof setTimeout> | undefined

  const abort = (): void => {
    controller.abort()
    // The body of a custom `fetch` may ignore the signal.
    reader?.cancel().catch(() => {})
  }

  const close = (reason: string, error?: ClientError): void => {
    abort()
    if (isStopped) return
    isStopped = true
    backoff.stop()
    listener.onClose(reason, error)
  }

  const fail = (error: ClientError): void => { close(error.code, error) }

  const reconnect = (): void => {
    skipsDelay = Date.now() - startedAt >= retrySettings.retryDelay
    abort()
    backoff.retryNow()
  }

  const setIdleTimer = (ms: number): void => {
    clearTimeout(idleTimer)
    idleTimer = setTimer(reconnect, ms)
  }

  const restartIdleTimer = (): void => {
    lastDataAt = Date.now()
    // After `stop`, the timer limits the time for which the request continues.
    if (!isStopped) setIdleTimer(idleTimeout)
  }

  const createForeignError = (received: string): ClientError => new ClientError('NOT_A_STREAM', `Received ${received}`)

  /** Throws the error for a response that is not from the server. Closes the session if all responses are of this kind for too long. */
  const rejectForeign = (received: string): void => {
    const error = createForeignError(received)
    const now = performance.now()
    // Without a network, only a service worker can respond.
    if (isOffline()) foreignSince = now
    foreignSince ??= now
    if (now - foreignSince < FOREIGN_TIMEOUT) throw error
    fail(error)
  }

  /** Requests a stream and reads it. Throws if the stream is lost. Returns if the session is closed, or the signal has aborted. */
  const openStream = async (): Promise<void> => {
    requestedId = lastEventId
    const response = await send(path, {
      // [WHATWG HTML 9.2.3] The id is sent in UTF-8. `fetch` takes a string with one character for each byte.
      headers: { accept: 'text/event-stream', ...requestedId && { 'last-event-id': String.fromCharCode(...new TextEncoder().encode(requestedId)) } },
      cache: 'no-store',
      signal: controller.signal,
      body: () => {
        isOpening = true
        return null
      }
    })
    const { status, body, headers } = response
    if (status === 204) return close('closed')
    if (!response.ok) {
      const error = createResponseError({ status, body: await withAbort(controller.signal, response.json()).catch(() => {}) })
      if (!isTransient(status)) return fail(error)
      retryAfter = parseRetryAfter(response)
      throw error
    }
    const type = headers.get('content-type') as string
    // A 200 always has a body, unless the platform cannot read streams.
    if (!body) return fail(createForeignError('no readable body'))
    reader = body.getReader()
    if (/^text\/event-stream\b/i.test(type)) await readStream(reader)
    else rejectForeign(`${status} ${type}: ${new TextDecoder().decode((await reader.read()).value).slice(0, 100)}`)
  }

  const readStream = async (reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> => {
    const { signal } = controller
    const limitSize = (size: number): void => {
      if (size > maxEventSize) fail(new ClientError('EVENT_TOO_LARGE', `Exceeds maxEventSize (${maxEventSize})`))
    }
    const parse = createParser(
      (id, event, data, request) => {
        limitSize(data.length - 1)
        // A listener may have closed or replaced the stream. If it was replaced, the server sends the rest of the chunk again.
        if (signal.aborted) return
        lastEventId = id ?? lastEventId
        if (data) handleEvent(event, data, request)
      },
      retry => { retrySettings.retryDelay = retry }
    )
    const decoder = new TextDecoder()
    while (!signal.aborted) {
      const { done, value } = await reader.read()
      if (signal.aborted) break
      if (done) throw new ClientError('ENDED')
      restartIdleTimer()
      limitSize(parse(decoder.decode(value, { stream: true })) - OVERHEAD)
    }
  }

  const handleEvent = (event: string, text: string, request: string): void => {
    let data
    try {
      data = JSON.parse(text)
    } catch (error) {
      return listener.reportError(error)
    }
    if (event === 'welcome') handleWelcome(data)
    else if (event === 'close' || event === 'replaced') close(data.reason ?? event)
    else if (!isStopped) listener.onEvent(event, data, text.length, request)
  }

  const handleWelcome = (welcome: Welcome): void => {
    const { sessionId, resumed, heartbeatInterval = Infinity } = welcome
    // A stream with the id of the current session that does not resume it at the requested event is a copy of an earlier stream, for example
    // from a service worker.
    if (sessionId === currentSessionId && !(resumed && lastEventId === requestedId)) {
      lastEventId = requestedId
      return rejectForeign('a cached stream')
    }
    currentSessionId = sessionId
    isOpening = false
    if (isStopped) return abort()
    backoff.reset()
    idleTimeout = heartbeatInterval * IDLE_HEARTBEATS
    restartIdleTimer()
    listener.onWelcome(welcome)
  }

  return {
    fail,
    reconnect,
    async run () {
      // eslint-disable-next-line no-unmodified-loop-condition -- other functions modify it
      while (!isStopped) {
        controller = new AbortController()
        skipsDelay = false
        retryAfter = 0
        startedAt = Date.now()
        idleTimeout = attemptTimeout
        attemptTimeout = IDLE_TIMEOUT
        restartIdleTimer()
        const error = await openStream().catch((thrown: unknown) => thrown)
        isOpening = false
        if ((error as ClientError | undefined)?.code !== 'NOT_A_STREAM') foreignSince = undefined
        if (isRequestError(error)) fail(error)
        // Only `reconnect` aborts the request of a session that is not closed.
        if (!isStopped) listener.onError(controller.signal.aborted ? new ClientError('SILENT') : error)
        clearTimeout(idleTimer)
        // Releases the connection of a response whose body was not read.
        abort()
        if (!isStopped && !skipsDelay) await backoff.wait(retryAfter)
      }
      return currentSessionId
    },
    onOnline () {
      backoff.reset()
      foreignSince = undefined
      attemptTimeout = PROBE_TIMEOUT
      reconnect()
      skipsDelay = true
    },
    probe () {
      backoff.reset()
      backoff.retryNow()
      // The difference is positive if the clock was set back.
      setIdleTimer(Math.min(idleTimeout, idleTimeout / IDLE_HEARTBEATS + PROBE_TIMEOUT) + Math.min(0, lastDataAt - Date.now()))
    },
    stop () {
      isStopped = true
      backoff.stop()
      if (isOpening) setIdleTimer(CLOSE_TIMEOUT)
      else abort()
      return isOpening
    }
  }
}
