import type { FastifyBaseLogger, FastifyInstance, FastifyPluginAsync, FastifyTypeProvider, FastifyTypeProviderDefault, RawReplyDefaultExpression, RawRequestDefaultExpression, RawServerBase, RawServerDefault } from 'fastify'
import fp from 'fastify-plugin'
import cluster from 'node:cluster'
import { OptionInvalid, StoreUnavailable } from './errors.js'
import { assertFits, Log } from './log/log.js'
import { resolveOptions, type Settings, type SseSessionsOptions } from './options.js'
import { routes } from './routes/index.js'
import { addResumableRoutes } from './runs/resumable-route.js'
import { createSessions, type Sessions } from './sessions/sessions.js'
import { memoryStore } from './store/memory/memory-store.js'
import { RunState } from './store/run-state.js'
import { SessionState } from './store/session-state.js'
import { ServerConnections } from './stream/server-connections.js'

declare module 'fastify' {
  // A declaration that uses the last type parameter must repeat them all.
  /* eslint-disable @typescript-eslint/no-unused-vars */
  interface FastifyInstance<
    RawServer extends RawServerBase = RawServerDefault,
    RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
    RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
    Logger extends FastifyBaseLogger = FastifyBaseLogger,
    TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault
  > {
    /* eslint-enable @typescript-eslint/no-unused-vars */
    /** The registry of sessions. Option `decorator` changes this name. */
    sseSessions: Sessions<TypeProvider>
  }
}

/** Logs a warning if Node closes connections before they get a heartbeat. */
function warnAboutTimeout ({ server, log }: FastifyInstance, { heartbeatInterval }: Settings): void {
  // Fastify sets this property to its option `connectionTimeout`; the app can also set it itself. 0 turns the timeout off.
  const { timeout } = server
  if (!(timeout > 0) || (heartbeatInterval !== false && heartbeatInterval < timeout)) return
  const advice = heartbeatInterval === false ? 'turn heartbeats on, or the timeout off' : `set "heartbeatInterval" (${heartbeatInterval} ms) to less, or the timeout to more`
  log.warn(`the connectionTimeout of the server (${timeout} ms) ends idle event streams; ${advice}`)
}

const plugin: FastifyPluginAsync<SseSessionsOptions> = async (app, options) => {
  const settings = resolveOptions(options, app.initialConfig.pluginTimeout)
  if (app.hasDecorator(settings.decorator)) {
    throw new OptionInvalid(`The instance already has a decorator "${settings.decorator}"; choose another name with option "decorator"`)
  }
  const ready = new Promise<void>(resolve => { app.addHook('onReady', async () => { resolve() }) })
  const sessions = await createSessions(settings, app.log, ready)
  app.decorate(settings.decorator, sessions)
  addResumableRoutes(app, sessions.runs, settings.principal)
  // Also under PM2, which uses `node:cluster`.
  if (cluster.isWorker && settings.store === memoryStore) {
    app.log.warn('this process is one of several workers, but sessions are in its memory, so requests that reach another worker fail; use redisStore, or one worker')
  }

  const connections = ServerConnections.of(app)
  connections.add(() => sessions.close(), settings.closeTimeout)
  app.addHook('onListen', async () => {
    connections.addServersOf(app)
    warnAboutTimeout(app, settings)
  })
  // Not in `onClose`: Fastify runs it after all responses have ended, and streams do not end by themselves.
  app.addHook('preClose', () => connections.close())

  // Fastify ignores the prefix of a plugin that breaks encapsulation, so the routes get a scope of their own.
  const { prefix, logLevel, logSerializers } = settings
  await app.register(routes, { sessions, app, prefix, ...logLevel !== undefined && { logLevel }, ...logSerializers !== undefined && { logSerializers } })
}

/**
 * Adds two-way sessions over plain HTTP: the server sends events on one event stream (SSE), clients send messages with
 * POST. Adds the routes under `prefix`, and decorates the instance with the registry of sessions. For the options see
 * {@link SseSessionsOptions}. An invalid option fails the boot with FST_SSE_OPTION_INVALID.
 *
 * `require()` returns this function. It has the other exports as properties.
 */
const sseSessions = Object.assign(fp(plugin, { fastify: '5.x', name: 'fastify-sse-sessions' }), { memoryStore, StoreUnavailable, assertFits, Log, RunState, SessionState })
Object.assign(sseSessions, { default: sseSessions, sseSessions })

export default sseSessions
export { memoryStore, sseSessions, sseSessions as 'module.exports' }
export type { Awaitable } from './awaitable.js'
export type { Contract, Received } from './contract.js'
export type { SseSessionsOptions } from './options.js'
export type { ResumableOptions } from './runs/resumable-route.js'
export type { Run, RunStatus } from './runs/run.js'
export type { RequestOptions } from './runs/requests.js'
export type { FollowOptions } from './runs/run-parts.js'
export type { RunReplyOptions } from './runs/run-response.js'
export type { FindRunOptions, Producer, ProducerContext, RestartableContext, RestartableProducer, RunEvent, Runs, StartRunOptions } from './runs/runs.js'
export type { Channel } from './sessions/channel.js'
export type { ChannelOptions, JoinOptions } from './sessions/channel-options.js'
export type { ContractChannel, ContractHandler, ContractPrincipalSessions, ContractSession } from './sessions/contract-types.js'
export type { LatestOptions, SendOptions } from './sessions/event-options.js'
export type { HandlerContext, HandlerOptions, MessageHandler } from './sessions/handlers.js'
export type { Hooks, Message } from './sessions/hooks.js'
export type { EmitOptions, Session } from './sessions/session.js'
export type { ContractSessions, Sessions, SessionStats } from './sessions/sessions.js'
export type { UpwardReply } from './sessions/upward-reply.js'
export type { PrincipalSessions } from './sessions/principal-sessions.js'
export type { SessionData } from './store/session-state.js'
export type { Gap } from './wire/frame.js'
// For authors of stores.
export type { EntryInput, LogBounds, LogListener, TrimReason } from './log/log.js'
export type { LogRange } from './log/log-range.js'
export type { MessageQueue, QueuedMessage, QueueResult, StoredResponse } from './store/message-queue.js'
export type { Answer, RunInput, RunListener, RunOutcome, RunRestart } from './store/run-state.js'
export type { Reuse, RunSource, RunStore } from './store/run-store.js'
export type { SessionListener } from './store/session-state.js'
export type { JoinResult, Store, StoreCallbacks, StoreFactory, StoreSettings, StoreStats } from './store/store.js'
export { assertFits, Log, RunState, SessionState, StoreUnavailable }
