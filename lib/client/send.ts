import { abortReason, withAbort } from './abort.js'
import { ClientError, createRequestError } from './errors.js'
import { isOffline } from './network.js'
import type { ConnectOptions, Platform, RequestHeaders, Resolvable } from './options.js'

/**
 * Options of one request, as for `fetch`. `body` is a function, which is called when the request is sent; if it throws, no request
 * is sent. `onUnsent` is called afterwards if the request has certainly not reached a server.
 */
interface SendOptions extends Omit<RequestInit, 'body'> {
  readonly headers: Record<string, string>
  readonly signal: AbortSignal
  readonly body?: () => string | null
  readonly onUnsent?: () => void
}

/** Sends a request to a path under the URL of the session. */
export type Send = (path: string, options: SendOptions) => Promise<Response>

/**
 * Creates the function that sends all requests of a session. It resolves the URL and the headers for each request.
 * Stores the latest URL of each path in `urls`, unless the app has its own `fetch`. `closeSignal` aborts when the session is closed.
 * Calls `reportError` if the session cannot be shared.
 */
export function createSend (url: Resolvable<string | URL>, options: ConnectOptions, platform: Platform, urls: Map<string, string>, closeSignal: AbortSignal, reportError: (error: ClientError) => void): Send {
  const { headers, fetch, credentials } = options
  // Loaded only once, because `import()` does not resolve in a page that is being closed, and some browsers do not repeat one that has failed.
  let sharedFetch: typeof import('./shared-fetch.js').sharedFetch | undefined
  const request: Send = async (path, { body, onUnsent, ...init }) => {
    const base = await resolveValue(url)
    const userHeaders = await resolveValue(headers) ?? {}
    let sendRequest = fetch ?? platform.fetch ?? globalThis.fetch
    if (options.shared) {
      sharedFetch ??= await import('./shared-fetch.js').then(module => module.sharedFetch, (cause: unknown) => {
        reportError(new ClientError('NOT_SHARED', 'Cannot load shared-fetch.js', { cause }))
        return fetch => fetch
      })
      sendRequest = sharedFetch(sendRequest, options, closeSignal)
    }
    // The signal may have aborted before the headers resolved, or while the module was loaded.
    if (init.signal.aborted) throw abortReason(init.signal)
    const wasOffline = isOffline()
    let isValid = false
    try {
      const target = appendPath(base, path)
      if (fetch === undefined) urls.set(path, checkUrl(target))
      const merged = mergeHeaders(userHeaders, init.headers)
      isValid = true
      return await sendRequest(target, {
        // Not every `fetch` accepts the value `undefined`.
        ...credentials && { credentials },
        ...init,
        headers: merged,
        body: body?.() ?? null
      })
    } catch (error) {
      if (!isValid || platform.isInvalid?.(error)) throw createRequestError(error as Error)
      // A request that starts online can reach the server before the network is lost.
      if (platform.isUnsent?.(error) || (wasOffline && isOffline())) onUnsent?.()
      throw error
    }
  }
  return (path, options) => {
    const { signal } = options
    return withAbort(signal, request(path, options).then(async response => {
      // Nobody reads the response of a custom `fetch` that ignored the signal.
      if (signal.aborted) await response.body?.cancel()
      return response
    }))
  }
}

/** Inserts a path before the query of a URL. */
function appendPath (url: string | URL, path: string): string {
  const [, base, query] = /^([^?#]*)([^#]*)/.exec(url.toString()) as unknown as [string, string, string]
  return base.replace(/\/$/, '') + path + query
}

/** Returns the absolute URL. Throws if `fetch` could never send a request to it. */
function checkUrl (url: string): string {
  // Throws if the URL cannot be parsed, if it is relative and there is no page, or if it contains a password.
  const absolute = new Request(url).url
  if (!/^https?:/.test(absolute)) throw new TypeError(`Not HTTP: ${url}`)
  return absolute
}

function mergeHeaders (userHeaders: RequestHeaders, ownHeaders: Record<string, string>): Record<string, string> {
  const entries = Symbol.iterator in userHeaders ? [...userHeaders as Iterable<[string, string]>] : Object.entries(userHeaders as Record<string, string>)
  const headers = new Headers(entries.filter(([, value]) => value !== undefined && value !== null))
  // If the request has a body, `ownHeaders` contains its content type.
  headers.delete('content-type')
  return { ...Object.fromEntries(headers), ...ownHeaders }
}

/** Returns the value, or the result of the function that returns it. */
export function resolveValue<T> (value: Resolvable<T>): T | Promise<T> {
  return typeof value === 'function' ? (value as () => T | Promise<T>)() : value
}
