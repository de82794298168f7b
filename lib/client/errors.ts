/** An error of the client's. The `code` is stable: the server's own, or one of those below. */
export class ClientError extends Error {
  /**
   * `CLOSED` (the session is over), `TIMEOUT`, `QUEUE_FULL`, `RESET` (the session was lost while the answer was under
   * way), `EVENT_TOO_LARGE`, `NOT_A_STREAM`; `HTTP_<status>` for an answer that names no code; else the server's.
   */
  readonly code: string
  /** The status of the answer, where there was one. */
  readonly status: number | undefined

  constructor (code: string, message: string, status?: number, options?: ErrorOptions) {
    super(message, options)
    this.name = 'ClientError'
    this.code = code
    this.status = status
  }
}

/** The error that an answer tells of. */
export function errorOf (status: number, body: unknown): ClientError {
  const { code = `HTTP_${status}`, message = `The server answered ${status}` } = (body ?? {}) as { code?: string, message?: string }
  return new ClientError(code, message, status)
}

/** Statuses that say nothing of the request: the same may go well a little later. */
export const isPassing = (status: number): boolean => status === 429 || status >= 500
