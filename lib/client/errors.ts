/** An error of the client. Its `code` is stable across versions; its message is not. */
export class ClientError extends Error {
  /**
   * The code of the server's error response, `HTTP_<status>` if that response has no code, or one of these:
   *
   * - `CLOSED`: the session is closed, or the React component is not mounted.
   * - `TIMEOUT`: a message got no response in time. It may have been handled.
   * - `QUEUE_FULL`: `maxQueued` messages have no response yet.
   * - `RESET`: the session was lost before a message got its response. The message may have been handled.
   * - `ENDED`: the server or a proxy ended the stream.
   * - `SILENT`: the client replaced a stream that it considered dead.
   * - `EVENT_TOO_LARGE`: an event is larger than `maxEventSize`.
   * - `NOT_A_STREAM`: the response to the GET is not an event stream.
   */
  readonly code: string
  /** The HTTP status of the response; `undefined` if the error does not come from a response. */
  readonly status: number | undefined

  constructor (code: string, message: string, status?: number) {
    super(message)
    this.name = 'ClientError'
    this.code = code
    this.status = status
  }
}

/** Creates the error for an error response. `body` is the parsed body, of any type. */
export function createResponseError (status: number, body: unknown): ClientError {
  const { code = `HTTP_${status}`, message = `HTTP status ${status}` } = (body ?? {}) as { code?: string, message?: string }
  return new ClientError(code, message, status)
}

/** Whether the same request may succeed later. */
export const isTransient = (status: number): boolean => status === 429 || status >= 500

/** Returns the delay of the `Retry-After` header in milliseconds; 0 if there is none. [RFC 9110 10.2.3] The header contains seconds or a date. */
export function parseRetryAfter ({ headers }: Response): number {
  const value = headers.get('retry-after') ?? ''
  return Number(value) * 1000 || Date.parse(value) - Date.now() || 0
}
