import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { Connections } from './connections.js'
import { OptionInvalid } from './errors.js'
import { settle, type SseSessionsOptions } from './options.js'
import { routes } from './routes/index.js'
import { openSessions, type Sessions } from './sessions.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** The registry of sessions; option `decorator` gives it another name. */
    sseSessions: Sessions
  }
}

const plugin: FastifyPluginAsync<SseSessionsOptions> = async (app, options) => {
  const settings = settle(options, app.initialConfig.pluginTimeout)
  if (app.hasDecorator(settings.decorator)) {
    throw new OptionInvalid(`The instance has a decorator "${settings.decorator}" already; name this registration with option "decorator"`)
  }
  const ready = new Promise<void>(resolve => { app.addHook('onReady', async () => { resolve() }) })
  const sessions = await openSessions(settings, app.log, ready)
  app.decorate(settings.decorator, sessions)

  const connections = Connections.of(app.server)
  connections.add(() => sessions.close(), settings.closeTimeout)
  // Not in onClose: by then the server waits for the streams, which would wait for the hook.
  app.addHook('preClose', () => connections.close())

  // A plugin that breaks encapsulation gets no prefix: hence the scope inside.
  await app.register(routes, { sessions, prefix: settings.prefix, ...settings.logLevel !== undefined && { logLevel: settings.logLevel } })
}

/**
 * Two-way sessions over plain HTTP: one event stream down, POSTs up, under `prefix`; the registry of sessions is
 * decorated on the instance. See {@link SseSessionsOptions}; invalid options reject the boot with FST_SSE_OPTION_INVALID.
 */
const sseSessions = fp(plugin, { fastify: '5.x', name: 'fastify-sse-sessions' })

export default sseSessions
export { sseSessions, sseSessions as 'module.exports' }
export type { SseSessionsOptions } from './options.js'
export type { Sessions, SessionStats } from './sessions.js'
export type { Session } from './session.js'
export type { SessionData } from './store/state.js'
export type { Channel, SendOptions } from './channel.js'
export type { Contract } from './contract.js'
export type { ContractChannel, ContractHandler, ContractSession, ContractSessions } from './typed.js'
export type { Hooks, Message } from './hooks.js'
export type { UpwardReply } from './reply.js'
export type { HandlerContext, HandlerOptions, MessageHandler } from './dispatch.js'
export type { Gap } from './wire/frame.js'
export type { Awaitable, OpenStore, Store, StoreSettings, StoreStats, StoreUser } from './store/store.js'
export type { Delivery, Letter, Mailbox, Outcome } from './store/mailbox.js'
export type { SessionListener } from './store/state.js'
export type { Draft, LogBounds, LogListener, Source, TrimReason } from './store/log.js'
export { memoryStore } from './store/memory.js'
// For those who write a store.
export { demandRoom, Log } from './store/log.js'
export { SessionState } from './store/state.js'
export { StoreUnavailable } from './errors.js'
