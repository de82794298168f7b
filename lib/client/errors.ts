/** An error of the client. Its `code` is stable across versions; its message is not. */
export class ClientError extends Error {
  /**
   * The code of the server's error response, `HTTP_<status>` if that response has no code, or one of these:
   *
   * - `CLOSED`: the session is closed, or the component of a framework is not mounted or has no URL.
   * - `TIMEOUT`: a message got no response in time; it may have been handled. Or `resumableFetch` could not resume a response in time. The `cause` is the last error of a request, if there is one.
   * - `QUEUE_FULL`: `maxQueued` messages have no response yet.
   * - `RESET`: the session was lost before a message got its response. The message may have been handled.
   * - `ENDED`: the server or a proxy ended the stream.
   * - `SILENT`: the client gave up a stream or a request that may be dead: it received nothing for too long, or the network was lost meanwhile.
   * - `EVENT_TOO_LARGE`: an event is larger than `maxEventSize`.
   * - `BUFFER_FULL`: a `for await` loop did not read its events in time.
   * - `INCOMPLETE`: values of a subscription may be missing, because the server no longer had some events, or the session.
   * - `NOT_STREAMING`: the handler of a subscription returned no async iterable.
   * - `HANDLER_LOST`: the process of the handler of a subscription has closed or failed, or the handler was stopped.
   * - `UNHANDLED`: the client has no handler for a request of the server. Only sent to the server.
   * - `NOT_A_STREAM`: the response to the GET is not an event stream of this session.
   * - `NOT_SHARED`: the module for the option `shared` could not be loaded. The tab has a session of its own.
   * - `REQUEST_INVALID`: the request can never be sent, for example because of its URL. The `cause` says why.
   * - `OPTION_INVALID`: an option does not exist.
   */
  declare readonly code: string
  /** The HTTP status of the response; `undefined` if the error does not come from a response. */
  declare readonly status: number | undefined

  constructor (code: string, message = code, options?: { status?: number, cause?: unknown }) {
    super(message, options)
    this.name = 'ClientError'
    this.code = code
    this.status = options?.status
  }
}

/** Creates the error for an error response. `body` is the parsed body, of any type. */
export function createResponseError ({ status, body }: { readonly status: number, readonly body: unknown }): ClientError {
  const { code = `HTTP_${status}`, message } = (body ?? {}) as { code?: string, message?: string }
  return new ClientError(code, message, { status })
}

/** Creates the error of a request that can never be sent. */
export function createRequestError (cause: Error): ClientError {
  return new ClientError('REQUEST_INVALID', cause.message, { cause })
}

export const isRequestError = (error: unknown): error is ClientError => (error as ClientError | undefined)?.code === 'REQUEST_INVALID'

/** Whether the same request may succeed later. */
export const isTransient = (status: number): boolean => [408, 421, 425, 429].includes(status) || status >= 500

// Milliseconds. A longer `Retry-After` is probably a mistake, and would disconnect the client until the page is reloaded.
const MAX_RETRY_AFTER = 300_000

/** Returns the delay of the `Retry-After` header in milliseconds; 0 if there is none, negative if its time has passed. [RFC 9110 10.2.3] The header contains seconds or a date. */
export function parseRetryAfter ({ headers }: Response): number {
  // A missing header becomes `null`, which is no date.
  const value = headers.get('retry-after') as string
  // The clocks of server and client may differ.
  const now = Date.parse(headers.get('date') as string) || Date.now()
  return Math.min(MAX_RETRY_AFTER, Number(value) * 1000 || Date.parse(value) - now || 0)
}
