/** An error of the client's. The `code` is stable: the server's own, or one of those below. */
export class ClientError extends Error {
  /**
   * `CLOSED` (the session is over), `TIMEOUT`, `QUEUE_FULL`, `RESET` (the session was lost while the answer was under
   * way), `ENDED` (the stream, by the server), `SILENT` (it was given up), `EVENT_TOO_LARGE`, `NOT_A_STREAM`;
   * `HTTP_<status>` for an answer that names no code; else the server's.
   */
  readonly code: string
  /** The status of the answer, where there was one. */
  readonly status: number | undefined

  constructor (code: string, message: string, status?: number) {
    super(message)
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

/** Whether a status says nothing of the request: the same may go well a little later. */
export const isPassing = (status: number): boolean => status === 429 || status >= 500

/** Milliseconds for which an answer asks to be left alone. [RFC 9110 10.2.3] It gives seconds, or a date. */
export function retryAfterOf ({ headers }: Response): number {
  const value = headers.get('retry-after') ?? ''
  return Number(value) * 1000 || Date.parse(value) - Date.now() || 0
}
