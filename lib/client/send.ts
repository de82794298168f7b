import type { ConnectOptions, Resolvable } from './options.js'

/** Options of one request, as for `fetch`. `body` is a function, which is called when the request is sent. */
type SendOptions = Omit<RequestInit, 'body'> & { headers: Record<string, string>, signal: AbortSignal, body?: () => string }

/** Sends a request to a path under the URL of the session. */
export type Send = (path: string, options: SendOptions) => Promise<Response>

/** Creates the function that sends all requests of a session. It resolves the URL and the headers for each request. */
export function createSend (url: Resolvable<string | URL>, { headers = {}, fetch = (url, init) => globalThis.fetch(url, init), credentials }: ConnectOptions): Send {
  const request: Send = async (path, options) => {
    const base = String(await resolveValue(url)).replace(/\/$/, '')
    return await fetch(base + path, {
      ...credentials !== undefined && { credentials },
      ...options,
      headers: { ...await resolveValue(headers), ...options.headers },
      body: options.body?.() ?? null
    })
  }
  return (path, options) => new Promise((resolve, reject) => {
    // The functions for the URL and the headers do not get the signal, and their promises may never settle.
    options.signal.addEventListener('abort', () => { reject(options.signal.reason) })
    request(path, options).then(resolve, reject)
  })
}

function resolveValue<T> (value: Resolvable<T>): T | Promise<T> {
  return typeof value === 'function' ? (value as () => T | Promise<T>)() : value
}
