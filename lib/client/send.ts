import type { ConnectOptions, Source } from './options.js'

/** A request; its body is asked for when it leaves. */
type Init = Omit<RequestInit, 'body'> & { headers: Record<string, string>, signal: AbortSignal, body?: () => string }

/** Makes a request; the headers and the place are asked for afresh each time. */
export type Send = (path: string, init: Init) => Promise<Response>

/** Makes the requests of a session as its options say. */
export function sender (url: Source<string | URL>, { headers = {}, fetch = (url, init) => globalThis.fetch(url, init), credentials }: ConnectOptions): Send {
  const request: Send = async (path, init) => {
    const base = String(await ask(url)).replace(/\/$/, '')
    return await fetch(base + path, {
      ...credentials !== undefined && { credentials },
      ...init,
      headers: { ...await ask(headers), ...init.headers },
      body: init.body?.() ?? null
    })
  }
  return (path, init) => new Promise((resolve, reject) => {
    // What is asked knows nothing of the signal, and may never answer.
    init.signal.addEventListener('abort', () => { reject(init.signal.reason) })
    request(path, init).then(resolve, reject)
  })
}

function ask<T> (source: Source<T>): T | Promise<T> {
  return typeof source === 'function' ? (source as () => T | Promise<T>)() : source
}
