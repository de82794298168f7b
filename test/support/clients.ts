import type { Test } from 'tap'
import { ClientSession, connect as connectAnywhere, type ConnectOptions } from '../../lib/client/index.js'
import { connect as connectNode } from '../../lib/client/node.js'
import { signal, within } from './wait.js'

const CONNECTS = { 'the build for Node': connectNode, 'the build for browsers': connectAnywhere }

export type Connect = (url: string | (() => string), options?: ConnectOptions) => ClientSession

/** Runs a test with each build of the client; sessions are closed when it ends. */
export function eachClient (t: Test, title: string, run: (t: Test, connect: Connect) => Promise<void>): void {
  for (const [build, connect] of Object.entries(CONNECTS)) {
    t.test(`${title} (${build})`, t => run(t, (url, options) => {
      const session = connect(url, options)
      t.teardown(() => session.close())
      return session
    }))
  }
}

/** Every event from now on, and which came: those of the session's own by their names. */
export function record (session: ClientSession): Array<[event: string, data: unknown]> {
  const events: Array<[string, unknown]> = []
  for (const name of ['open', 'resume', 'reset', 'disconnect', 'gap', 'error', 'close'] as const) {
    session.on(name, data => { events.push([name, data]) })
  }
  return events
}

/** Resolves with the data of the next event of a name. */
export function next (session: ClientSession, event: string): Promise<unknown> {
  const { promise, resolve } = signal<unknown>()
  const end = session.on(event, data => {
    end()
    resolve(data)
  })
  return within(promise, `the event ${event}`)
}

/** Of a server to `serve`: undici opens a connection in the place of one whose request is aborted, and Node waits for those that never ask. */
export const forced = { forceCloseConnections: true }

export const numbers = (count: number): number[] => Array.from({ length: count }, (_, n) => n)
