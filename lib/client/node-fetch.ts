/** The part of a dispatcher of undici that identifies it. Not its whole type, so that programs without undici compile. */
export interface Dispatcher {
  dispatch (...args: never[]): boolean
}

type Fetch = (url: string, init: RequestInit & { dispatcher?: Dispatcher | undefined }) => Promise<Response>

// A variable, because bundlers and compilers would require the optional dependency if they saw its name in `import()`.
const UNDICI = 'undici'
let nodeFetch: Promise<Fetch> | undefined

/** Returns a `fetch` that uses undici if it is installed, otherwise the global one. */
export function createFetch (dispatcher: Dispatcher | undefined): (url: string, init: RequestInit) => Promise<Response> {
  return async (url, init) => {
    nodeFetch ??= loadFetch()
    return await (await nodeFetch)(url, dispatcher === undefined ? init : { ...init, dispatcher })
  }
}

async function loadFetch (): Promise<Fetch> {
  try {
    const { Agent, fetch } = await import(/* @vite-ignore */ /* webpackIgnore: true */ /* turbopackIgnore: true */ UNDICI)
    // The `bodyTimeout` of undici would end a stream that is idle for five minutes; the client has an idle timeout of its own.
    const agent: Dispatcher = new Agent({ allowH2: true, bodyTimeout: 0 })
    return (url, init) => fetch(url, { dispatcher: agent, ...init })
  } catch {
    return (url, init) => globalThis.fetch(url, init)
  }
}
