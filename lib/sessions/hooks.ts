import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { Awaitable } from '../awaitable.js'
import { HookInvalid } from '../errors.js'
import { logSafely } from '../safe-log.js'
import type { Gap } from '../wire/frame.js'
import type { Channel } from './channel.js'
import type { Session } from './session.js'
import type { UpwardReply } from './upward-reply.js'

/** A message that a client has sent. */
export interface Message {
  /** The name of the event; `message` if the client has sent none. */
  readonly event: string
  /** The data of the message, parsed from JSON; `undefined` if it has none. */
  readonly data: unknown
  /** The idempotency key, if the message has one. */
  readonly id: string | undefined
}

/** The hooks that an app can add with `addHook`. Hooks with the same name run in the order in which they were added. */
export interface Hooks<S = Session, C = Channel> {
  /**
   * A client has opened a session. Properties of the object that the hook returns are added to the data of the `welcome`
   * event. If the hook throws, the session is refused, and the error becomes the response to the request.
   */
  onOpen: (session: S, request: FastifyRequest) => Awaitable<object | undefined | void>
  /** A client has resumed its session, or opens a second stream that replaces the first. The result is used as that of `onOpen`. An error becomes the response to the request; the session stays open. */
  onResume: (session: S, request: FastifyRequest) => Awaitable<object | undefined | void>
  /**
   * A message is about to be handled: by its handler, by the `onMessage` hooks or by the echo. If its handler has a schema, the data
   * is valid. If a hook throws, the error becomes the response, as that of a handler. If a hook calls `reply.send`, the message is
   * not handled any further. Does not run for repeats, which get the stored response, nor for the messages `part` and `response` of the package's
   * client. The time of the hooks counts for `handlerTimeout`.
   */
  preHandle: (session: S, message: Message, request: FastifyRequest, reply: UpwardReply) => Awaitable<void>
  /** A client has sent a message whose event has no handler. The hooks run until one of them returns a value or calls `reply.send`. */
  onMessage: (session: S, message: Message, request: FastifyRequest, reply: UpwardReply) => unknown
  /**
   * A session has joined a channel. The hooks of each join run once, in the process that has called `join`, unless this process
   * fails. `join` waits for them. If `join` rejects with FST_SSE_STORE_UNAVAILABLE although the session has joined, they run later.
   */
  onJoin: (session: S, channel: C) => Awaitable<void>
  /**
   * A session has left a channel, or was closed while it was a member. After `leave`, the hooks run in the process that has called
   * it, and `leave` waits for them. After a close, they run before those of `onClose`, and in the same process. If `leave` rejects
   * with FST_SSE_STORE_UNAVAILABLE although the session has left, its hooks run later.
   */
  onLeave: (session: S, channel: C) => Awaitable<void>
  /** The stream was lost, or the client disconnected after `onResume` and before the stream began. The session stays open. */
  onDisconnect: (session: S) => Awaitable<void>
  /** The stream has written a `gap` event. */
  onGap: (session: S, gap: Gap) => Awaitable<void>
  /**
   * The session is closed. The reason is the argument of `close`, or `expired`, `deleted` (by the client), `refused` (by an
   * `onOpen` hook), `aborted` (the client disconnected before the `welcome` event), `unauthorized` (see the option `expires`),
   * `evicted` (to make room for another session), `shutdown`, or `lost` (the store has lost the session).
   */
  onClose: (session: S, reason: string) => Awaitable<void>
}

type HookLists = { [Name in keyof Hooks]: Array<Hooks[Name]> }

/** Keeps the hooks of the app and runs them. */
export class HookRunner {
  readonly #hooks: HookLists = { onOpen: [], onResume: [], preHandle: [], onMessage: [], onJoin: [], onLeave: [], onDisconnect: [], onGap: [], onClose: [] }
  readonly #logger: FastifyBaseLogger

  constructor (logger: FastifyBaseLogger) {
    this.#logger = logger
  }

  add<Name extends keyof Hooks> (name: Name, hook: Hooks[Name]): void {
    if (!Object.hasOwn(this.#hooks, name)) {
      throw new HookInvalid(`There is no hook "${String(name)}"; the hooks are ${Object.keys(this.#hooks).join(', ')}`)
    }
    if (typeof hook !== 'function') throw new HookInvalid(`The hook ${name} must be a function`)
    this.#hooks[name].push(hook)
  }

  has (name: keyof Hooks): boolean {
    return this.#hooks[name].length > 0
  }

  /** Runs the `onOpen` or the `onResume` hooks and merges the objects that they return. */
  async runStreamHooks (name: 'onOpen' | 'onResume', session: Session, request: FastifyRequest): Promise<object> {
    let data = {}
    for (const hook of this.#hooks[name]) data = { ...data, ...await hook(session, request) }
    return data
  }

  /** Runs the `preHandle` hooks until one of them calls `reply.send`, or the timeout has passed. */
  async runPreHandleHooks (session: Session, message: Message, request: FastifyRequest, reply: UpwardReply): Promise<void> {
    for (const hook of this.#hooks.preHandle) {
      if (reply.sent || reply.isAborted) return
      await hook(session, message, request, reply)
    }
  }

  /** Runs the hooks for a message until one of them returns a value or calls `reply.send`, or the timeout has passed. */
  async runMessageHooks (session: Session, message: Message, request: FastifyRequest, reply: UpwardReply): Promise<unknown> {
    for (const hook of this.#hooks.onMessage) {
      const result = await hook(session, message, request, reply)
      if (result !== undefined || reply.sent || reply.isAborted) return result
    }
    return undefined
  }

  /** Runs hooks that only observe: their results are ignored and their errors are logged. */
  async notify<Name extends 'onJoin' | 'onLeave' | 'onDisconnect' | 'onGap' | 'onClose'> (name: Name, ...args: Parameters<Hooks[Name]>): Promise<void> {
    for (const hook of this.#hooks[name]) {
      try {
        await (hook as (...args: Parameters<Hooks[Name]>) => Awaitable<void>)(...args)
      } catch (error) {
        logSafely(this.#logger, 'error', { err: error, session: args[0].shortId }, `the ${name} hook failed`)
      }
    }
  }
}
