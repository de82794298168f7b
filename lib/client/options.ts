/** A value, or a function that is asked for it each time. */
export type Source<T> = T | (() => T | Promise<T>)

/** What `connect` may be told; all of it may be left out. */
export interface ConnectOptions {
  /** Headers of every request, or a function that is asked for them before each, for tokens that expire; they are asked for again where they do not come. Default: none. */
  headers?: Source<Record<string, string>>
  /** Paths under the URL, as the server's. Default: `/downward` and `/upward`. */
  paths?: { downward?: string, upward?: string }
  /** What makes the requests. Default: the global `fetch`; in Node, undici's. */
  fetch?: (url: string, init: RequestInit) => Promise<Response>
  /** As for `fetch`: `include` lets cookies travel to another origin. Default: `same-origin`. */
  credentials?: RequestInit['credentials']
  /** Milliseconds for which a message is repeated until it is answered; then it fails with `TIMEOUT`. Default: 60 000; `Infinity` turns it off. */
  timeout?: number
  /** Messages that may wait for their answers, those under way too; one more fails with `QUEUE_FULL`. Default: 1000; `Infinity` turns it off. */
  maxQueued?: number
  /** Characters that the data of an event may have; more end the session with `EVENT_TOO_LARGE`. Default: 16 777 216; `Infinity` turns it off. */
  maxEventSize?: number
}
