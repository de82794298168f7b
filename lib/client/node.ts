import { Agent, fetch, type Dispatcher, type RequestInit as UndiciRequestInit } from 'undici'
import { ClientSession, type ConnectOptions, type Contract } from './index.js'

export * from './index.js'

export interface NodeConnectOptions extends ConnectOptions {
  /** What carries the requests: a proxy, a pool, other limits. Default: an `Agent` with HTTP/2 where it is offered, and no limit to silence. */
  dispatcher?: Dispatcher
}

// A stream may be silent for as long as the heartbeats allow; undici would give it up after five minutes.
const agent = new Agent({ allowH2: true, bodyTimeout: 0 })

/** Opens a session, as in a browser; the URL is absolute here. */
export function connect<C extends Contract = Contract> (url: string | URL | (() => string | URL | Promise<string | URL>), { dispatcher = agent, ...options }: NodeConnectOptions = {}): ClientSession<C> {
  return new ClientSession<C>(url, {
    fetch: async (url, init) => await fetch(url, { ...init as UndiciRequestInit, dispatcher }) as unknown as Response,
    ...options
  })
}
