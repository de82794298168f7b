/** A value, or a function that returns the value or a promise for it. */
export type Resolvable<T> = T | (() => T | Promise<T>)

/** Options of `connect`. All of them are optional. */
export interface ConnectOptions {
  /**
   * Headers of all requests. Use a function for tokens that expire: the client calls it before each request.
   * If the function throws, or if its promise does not settle in time, the request fails like one without a response. Default: none.
   */
  headers?: Resolvable<Record<string, string>>
  /** Paths under the URL, the same as in the option `paths` of the server. Default: `/downward` and `/upward`. */
  paths?: { downward?: string, upward?: string }
  /** The function that sends the requests. Default: the global `fetch`; in Node, undici's `fetch`. */
  fetch?: (url: string, init: RequestInit) => Promise<Response>
  /** The option `credentials` of `fetch`: `include` sends cookies to other origins, too. Default: that of `fetch`, `same-origin`. */
  credentials?: RequestInit['credentials']
  /** Time for which the client repeats a message that has no response, in milliseconds. Default: 60,000. `Infinity` turns it off. Error: `TIMEOUT`. */
  timeout?: number
  /** Maximum number of messages without a response, sent or not. Default: 1000. `Infinity` turns it off. Error: `QUEUE_FULL`. */
  maxQueued?: number
  /** Maximum size of the data of an event, in characters. Default: 16,777,216. `Infinity` turns it off. Error: `EVENT_TOO_LARGE`, which closes the session. */
  maxEventSize?: number
}
