import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import sseSessions, { type Sessions, type SseSessionsOptions } from '../../lib/index.js'

/** A `closeTimeout` that is longer than any wait of a test. A server with it needs `pluginTimeout: 0`, because Fastify limits how long plugins may take. */
export const LONG_CLOSE_TIMEOUT = 60_000

export interface TestServer {
  readonly app: FastifyInstance
  readonly sessions: Sessions
  /** `http://127.0.0.1:<port>`, without a trailing slash. */
  readonly url: string
  readonly port: number
}

export interface ServeOptions {
  readonly fastify?: FastifyServerOptions
  /** Runs before the plugin is registered. */
  readonly beforeRegister?: (app: FastifyInstance) => unknown
  /** Runs after the plugin is registered. */
  readonly afterRegister?: (app: FastifyInstance) => unknown
}

/** Starts an app with the plugin on a free port. It is closed when the test ends. */
export async function serve (t: Test, options: SseSessionsOptions = {}, { fastify = {}, beforeRegister: before, afterRegister: after }: ServeOptions = {}): Promise<TestServer> {
  const app = Fastify(fastify)
  t.teardown(() => app.close())
  await before?.(app)
  // A short timeout keeps the teardown of tests with open streams short.
  await app.register(sseSessions, { closeTimeout: 500, ...options })
  await after?.(app)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  return { app, sessions: app.sseSessions, url: `http://127.0.0.1:${port}`, port }
}

/** Starts an app to which the test has added the plugin itself. It is closed when the test ends. Resolves with its URL. */
export async function listen (t: Test, app: FastifyInstance): Promise<string> {
  t.teardown(() => app.close())
  return await app.listen({ port: 0, host: '127.0.0.1' })
}
