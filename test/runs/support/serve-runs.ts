import type { FastifyRequest } from 'fastify'
import type { Test } from 'tap'
import type { RunReplyOptions, Runs, SseSessionsOptions, StartRunOptions } from '../../../lib/index.js'
import { serve, type ServeOptions, type TestServer } from '../../support/server.js'
import { createFeed, type Feed } from './feed.js'

export interface RunServer extends TestServer {
  readonly runs: Runs
  readonly feed: Feed
  /** URL of a route whose POST starts the run `a` or follows the running one, whose GET follows it, and whose DELETE stops it. */
  readonly runUrl: string
  /** The log lines so far. */
  readonly logged: () => Array<{ readonly level: number, readonly msg: string, readonly err?: { readonly code?: string, readonly message: string } }>
}

export interface ServeRunsOptions {
  readonly plugin?: SseSessionsOptions
  readonly start?: StartRunOptions
  readonly reply?: RunReplyOptions
  readonly serve?: ServeOptions
}

const principalOf = ({ headers }: FastifyRequest): string | undefined => headers['x-user'] as string | undefined

/** Starts an app whose routes start, follow and stop a run, in the way that the documentation shows. */
export async function serveRuns (t: Test, { plugin = {}, start = {}, reply: replyOptions = {}, serve: serveOptions = {} }: ServeRunsOptions = {}): Promise<RunServer> {
  const feed = createFeed()
  let log = ''
  const logger = { level: 'info', stream: { write: (line: string) => { log += line } } }
  const served = await serve(t, plugin, {
    ...serveOptions,
    fastify: { logger, ...serveOptions.fastify },
    afterRegister: async app => {
      await serveOptions.afterRegister?.(app)
      const { runs } = app.sseSessions
      app.post('/run', async (request, reply) => {
        const run = await runs.start('a', { principal: principalOf(request), ...start }, feed.producer)
        return run.reply(request, reply, replyOptions)
      })
      app.get<{ Querystring: { from?: string } }>('/run', async (request, reply) => {
        const run = await runs.find('a', { principal: principalOf(request) })
        if (run === undefined) return reply.code(404).send()
        return run.reply(request, reply, { ...request.query, ...replyOptions })
      })
      app.delete('/run', async (request, reply) => {
        const run = await runs.find('a', { principal: principalOf(request) })
        await run?.stop('user')
        return reply.code(run === undefined ? 404 : 204).send()
      })
    }
  })
  return {
    ...served,
    runs: served.sessions.runs,
    feed,
    runUrl: `${served.url}/run`,
    logged: () => log.split('\n').filter(line => line !== '').map(line => JSON.parse(line))
  }
}
