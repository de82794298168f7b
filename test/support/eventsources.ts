import { EventSource as PackageEventSource } from 'eventsource'
import { Agent, EventSource as UndiciEventSource, type Dispatcher } from 'undici'
import type { Test } from 'tap'

/** The part of an EventSource that the tests use. */
export interface TestedEventSource {
  readonly readyState: number
  addEventListener: (type: string, listener: (event: { data?: unknown, lastEventId?: unknown }) => void) => void
  close: () => void
}

/** Two EventSource implementations for Node, each used without changes. */
export const eventSources: Array<[name: string, open: (t: Test, url: string) => TestedEventSource]> = [
  ['undici', (t, url) => {
    // The default agent aborts a stream that is idle for five minutes, and its sockets keep the process alive.
    const dispatcher: Dispatcher = new Agent({ bodyTimeout: 0 })
    const source = new UndiciEventSource(url, { node: { dispatcher } })
    t.teardown(() => {
      source.close()
      return dispatcher.destroy()
    })
    return source as TestedEventSource
  }],
  ['eventsource', (t, url) => {
    const source = new PackageEventSource(url)
    t.teardown(() => { source.close() })
    return source as TestedEventSource
  }]
]
