import type { Test } from 'tap'
import { ClientSession, connect as connectAnywhere, type ConnectOptions } from '../../lib/client/index.js'
import { connect as connectNode } from '../../lib/client/node.js'
import { signal, within } from './wait.js'

const BUILDS = { 'the build for Node': connectNode, 'the build for browsers': connectAnywhere }

export type Connect = (url: string | (() => string), options?: ConnectOptions) => ClientSession

/** Defines a test for each build of the client. Its sessions are closed when it ends. */
export function eachClient (t: Test, title: string, run: (t: Test, connect: Connect) => Promise<void>): void {
  for (const [build, connect] of Object.entries(BUILDS)) {
    t.test(`${title} (${build})`, t => run(t, (url, options) => {
      const session = connect(url, options)
      t.teardown(() => session.close())
      return session
    }))
  }
}

/** Records the lifecycle events of a session from now on. */
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

/** Fastify options for tests that abort requests of undici: it opens a new connection for an aborted request, and without these options Node waits for a connection that sends no request. */
export const forced = { forceCloseConnections: true }

export const numbers = (count: number): number[] => Array.from({ length: count }, (_, n) => n)
