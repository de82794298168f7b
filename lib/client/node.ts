import { Agent, fetch, type Dispatcher, type RequestInit as UndiciRequestInit } from 'undici'
import { ClientSession, type ConnectOptions, type Contract } from './index.js'
import type { Source } from './options.js'

export * from './index.js'

/** What {@link connect} may be told in Node. */
export interface NodeConnectOptions extends ConnectOptions {
  /** What carries the requests of undici's `fetch`: a proxy, a pool, other limits. Default: an `Agent` with HTTP/2 where it is offered, and no limit to silence. */
  dispatcher?: Dispatcher
}

// A stream may be silent for as long as the heartbeats allow; undici would give it up after five minutes.
const agent = new Agent({ allowH2: true, bodyTimeout: 0 })

/** Opens a session, as in a browser; the URL is absolute here. For the options see {@link NodeConnectOptions}. */
export function connect<C extends Contract = Contract> (url: Source<string | URL>, { dispatcher = agent, ...options }: NodeConnectOptions = {}): ClientSession<C> {
  return new ClientSession<C>(url, {
    fetch: async (url, init) => await fetch(url, { ...init as UndiciRequestInit, dispatcher }) as unknown as Response,
    ...options
  })
}
