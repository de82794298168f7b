import { Agent, fetch, type Dispatcher, type RequestInit as UndiciRequestInit } from 'undici'
import type { Contract } from '../contract.js'
import type { ConnectOptions, Resolvable } from './options.js'
import { ClientSession } from './session.js'

export * from './index.js'

/** Options of {@link connect} in Node. */
export interface NodeConnectOptions extends ConnectOptions {
  /** The undici dispatcher that sends the requests, for example a proxy or a pool. Default: an `Agent` that uses HTTP/2 if the server offers it and has no `bodyTimeout`. */
  dispatcher?: Dispatcher
}

// The `bodyTimeout` of undici would end a stream that is idle for five minutes; the client has an idle timeout of its own.
const agent = new Agent({ allowH2: true, bodyTimeout: 0 })

/** Opens a session, like `connect` in a browser. The URL must be absolute. */
export function connect<C extends Contract = Contract> (url: Resolvable<string | URL>, { dispatcher = agent, ...options }: NodeConnectOptions = {}): ClientSession<C> {
  return new ClientSession<C>(url, {
    fetch: async (url, init) => await fetch(url, { ...init as UndiciRequestInit, dispatcher }) as unknown as Response,
    ...options
  })
}
