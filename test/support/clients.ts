import type { Test } from 'tap'
import { connect as connectBrowser, type ClientSession, type ConnectOptions } from '../../lib/client/index.js'
import { connect as connectNode } from '../../lib/client/node.js'
import { deferred, withTimeout } from './wait.js'

const BUILDS = { 'Node build': connectNode, 'browser build': connectBrowser }

export type Connect = (url: string | (() => string), options?: ConnectOptions) => ClientSession

/** Runs a test with both builds of the client. Closes the sessions when the test ends. */
export function testEachClient (t: Test, title: string, run: (t: Test, connect: Connect) => Promise<void>): void {
  for (const [build, connect] of Object.entries(BUILDS)) {
    t.test(`${title} (${build})`, t => run(t, (url, options) => {
      const session = connect(url, options)
      // The wait is short, because the server of a test may never respond.
      t.teardown(() => withTimeout(session.close(), 'close()', 100).catch(() => {}))
      return session
    }))
  }
}

/** Records the client's own events from now on, in order. */
export function recordEvents (session: ClientSession): Array<[event: string, data: unknown]> {
  const events: Array<[string, unknown]> = []
  for (const name of ['open', 'resume', 'reset', 'disconnect', 'gap', 'error', 'close'] as const) {
    session.on(name, data => { events.push([name, data]) })
  }
  return events
}

/** Resolves with the data of the next event with this name. */
export function waitForEvent (session: ClientSession, event: string): Promise<unknown> {
  const { promise, resolve } = deferred<unknown>()
  const off = session.on(event, data => {
    off()
    resolve(data)
  })
  return withTimeout(promise, `the event ${event}`)
}

/** Replaces `navigator` until the test ends. The test sets whether the browser reports that it has a network. */
export function fakeNavigator (t: Test): { onLine: boolean } {
  const original = Object.getOwnPropertyDescriptor(globalThis, 'navigator')
  const navigator = { onLine: true }
  Object.defineProperty(globalThis, 'navigator', { value: navigator, configurable: true })
  t.teardown(() => {
    if (original === undefined) Reflect.deleteProperty(globalThis, 'navigator')
    else Object.defineProperty(globalThis, 'navigator', original)
  })
  return navigator
}

/** Fastify options for `serve`. After an aborted request undici opens a new connection, and without this option `close` would wait for it. */
export const FORCE_CLOSE = { forceCloseConnections: true }

/** The integers from 0 to `count` (exclusive). */
export const range = (count: number): number[] => Array.from({ length: count }, (_, n) => n)
