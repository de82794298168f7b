/** A value, or a function that returns the value or a promise for it. */
export type Resolvable<T> = T | (() => T | Promise<T>)

/** Request headers, as for `fetch`. A header with the value `undefined` is not sent. */
export type RequestHeaders = NonNullable<RequestInit['headers']> | Record<string, string | undefined>

/** Sends a request, like the global `fetch`. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>

/** What a platform has in place of the global `fetch`. */
export interface Platform {
  /** Default: the global `fetch`. */
  readonly fetch?: Fetch
  /** Whether an error shows that the request can never be sent. */
  readonly isInvalid?: (error: unknown) => boolean
  /** Whether an error shows that the request has not reached a server. Browsers do not report that. */
  readonly isUnsent?: (error: unknown) => boolean
}

/** Options of `connect`. All of them are optional. */
export interface ConnectOptions {
  /**
   * Headers of all requests. Use a function for tokens that expire: the client calls it before each request.
   * If the function throws, or if its promise does not settle in time, the request fails like one without a response.
   * The client sets `Content-Type` and its own headers itself. Default: none. Error: `REQUEST_INVALID`, which closes the session.
   */
  headers?: Resolvable<RequestHeaders | undefined> | undefined
  /** Paths under the URL, the same as in the option `paths` of the server. Default: `/downward` and `/upward`. */
  paths?: { downward?: string | undefined, upward?: string | undefined } | undefined
  /** The function that sends the requests. Default: the global `fetch`; in Node, undici's `fetch`. */
  fetch?: Fetch | undefined
  /** The option `credentials` of `fetch`: `include` sends cookies to other origins, too. Default: that of `fetch`, `same-origin`. */
  credentials?: RequestInit['credentials'] | undefined
  /** Time for which the client repeats a message that has no response, in milliseconds. Default: 60,000. `Infinity` turns it off. Error: `TIMEOUT`. */
  timeout?: number | undefined
  /** Maximum number of messages without a response, sent or not. Default: 1000. `Infinity` turns it off. Error: `QUEUE_FULL`. */
  maxQueued?: number | undefined
  /** Maximum size of the data of an event, in characters. Default: 16,777,216. `Infinity` turns it off. Error: `EVENT_TOO_LARGE`, which closes the session. */
  maxEventSize?: number | undefined
  /**
   * Whether the tabs of the same origin that connect to the same URL share one session and one stream. A string also separates the
   * tabs by its value; pass the id of the user, if tabs can belong to different users. Has no effect without Web Locks,
   * for example in a page without HTTPS. Default: `false`. Error: `NOT_SHARED`, after which the tab has a session of its own.
   */
  shared?: boolean | string | undefined
}
