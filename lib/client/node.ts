import type { Contract } from '../contract.js'
import { createFetch, type Dispatcher } from './node-fetch.js'
import type { ConnectOptions, Resolvable } from './options.js'
import { openSession, type ClientSession } from './session.js'

export * from './index.js'

/** Options of {@link connect} in Node. */
export interface NodeConnectOptions extends ConnectOptions {
  /**
   * The undici dispatcher that sends the requests, for example a proxy or a pool. Default: an `Agent` that uses HTTP/2 if
   * the server offers it and has no `bodyTimeout`; if undici is not installed, the dispatcher of the global `fetch`.
   */
  dispatcher?: Dispatcher | undefined
}

type RequestError = Error & { cause?: { code?: string, syscall?: string } }

function isInvalid (error: unknown): boolean {
  // Undici detects some invalid URLs and headers, such as a header with a control character, only when it sends the request.
  const { code = '' } = (error as RequestError).cause ?? {}
  return /^(ERR_INVALID_URL|UND_ERR_INVALID_ARG|UND_ERR_NOT_SUPPORTED)$/.test(code)
}

function isUnsent (error: unknown): boolean {
  const { code = '', syscall } = (error as RequestError).cause ?? {}
  return syscall === 'connect' || /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|UND_ERR_CONNECT_TIMEOUT)$/.test(code)
}

/** Opens a session, like `connect` in a browser. The URL must be absolute. */
export function connect<C extends Contract = Contract> (url: Resolvable<string | URL>, { dispatcher, ...options }: NodeConnectOptions = {}): ClientSession<C> {
  // Node has no tabs. Its Web Locks, since version 24, would share a session between the programs of one process.
  return openSession(url, { ...options, shared: false }, {
    fetch: createFetch(dispatcher),
    isInvalid,
    isUnsent
  }) as unknown as ClientSession<C>
}
