import { EventSource } from 'eventsource'
import type { Test } from 'tap'

interface PageScript {
  /** The arguments of each call of `console.log`. */
  readonly printed: readonly unknown[][]
  /** The value that the script returns. */
  readonly value: unknown
}

/**
 * Runs the script of a page of an app in Node, whose `EventSource` and `fetch` resolve paths of the app. `onCreate` is called
 * with each EventSource, which is closed when the test ends.
 */
export function runPageScript (t: Test, url: string, script: string, onCreate: (source: EventSource) => void = () => {}): PageScript {
  const printed: unknown[][] = []
  class PageEventSource extends EventSource {
    constructor (path: string) {
      super(url + path)
      t.teardown(() => { this.close() })
      onCreate(this)
    }
  }
  const globals = {
    EventSource: PageEventSource,
    fetch: (path: string, init?: RequestInit): Promise<Response> => fetch(url + path, init),
    console: { log: (...values: unknown[]) => { printed.push(values) } }
  }
  // The code is a block of this repository's documentation.
  const value: unknown = new Function(...Object.keys(globals), script)(...Object.values(globals)) // eslint-disable-line no-new-func
  return { printed, value }
}
