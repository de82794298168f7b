import { EventSource as PackageEventSource } from 'eventsource'
import { Agent, EventSource as UndiciEventSource, type Dispatcher } from 'undici'
import type { Test } from 'tap'

/** What the tests use of an EventSource. */
export interface TestedEventSource {
  readonly readyState: number
  addEventListener: (type: string, listener: (event: { data?: unknown, lastEventId?: unknown }) => void) => void
  close: () => void
}

/** The two EventSources of Node, each a real and unchanged client. */
export const eventSources: Array<[name: string, open: (t: Test, url: string) => TestedEventSource]> = [
  ['undici', (t, url) => {
    // The default agent would give up a stream that is idle for five minutes, and keep the process for its sockets.
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
