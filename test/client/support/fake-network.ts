import { mock } from 'node:test'
import type { Test } from 'tap'
import { freezeClock } from '../../support/clock.js'

export interface FakeNetwork {
  /** The option `fetch` for the client. */
  readonly fetch: typeof fetch
  /** Number of requests so far with this method. */
  requestCount: (method: string) => number
  /** Moves the clocks forward, and leaves the client time to react. */
  advance: (ms: number) => Promise<void>
}

/**
 * Replaces the clocks, so that no test waits for minutes, and the network, which a fake clock cannot control. `respond`
 * returns the response to a GET or POST, or `undefined` for no response; then the request ends when the client aborts it.
 * `attempt` is the number of the request among those with its method, from 1. Requests with the `silent` methods get no response.
 */
export function fakeNetwork (t: Test, respond: (method: string, attempt: number) => Response | undefined, silent: string[] = []): FakeNetwork {
  mock.timers.enable({ apis: ['setTimeout', 'Date'] })
  const advanceClock = freezeClock(t)
  t.teardown(() => { mock.timers.reset() })
  const counts = new Map<string, number>()
  return {
    requestCount: method => counts.get(method) ?? 0,
    advance: async ms => {
      advanceClock(ms)
      mock.timers.tick(ms)
      for (let tick = 0; tick < 5; tick++) await new Promise(resolve => { setImmediate(resolve) })
    },
    fetch: async (_url, { method = 'GET', signal } = {}) => {
      const attempt = (counts.get(method) ?? 0) + 1
      counts.set(method, attempt)
      if (method === 'DELETE' && !silent.includes(method)) return new Response()
      const response = silent.includes(method) ? undefined : respond(method, attempt)
      if (response?.body) return new Response(response.body.pipeThrough(new TransformStream(), signal ? { signal } : {}), response)
      return await new Promise<never>((_resolve, reject) => {
        signal?.addEventListener('abort', () => { reject(signal.reason) })
      })
    }
  }
}

/** Creates a response with an event stream that stays open. `onStart` receives a function that writes more text. */
export function streamResponse (text: string, onStart: (write: (text: string) => void) => void = () => {}): Response {
  // Not a TextEncoderStream, because that of Node needs seconds for large texts.
  const encoder = new TextEncoder()
  const readable = new ReadableStream<Uint8Array>({
    start: controller => {
      const write = (text: string): void => { controller.enqueue(encoder.encode(text)) }
      write(text)
      onStart(write)
    }
  })
  return new Response(readable, { headers: { 'content-type': 'text/event-stream' } })
}
