import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import { HookInvalid } from './errors.js'
import type { UpwardReply } from './reply.js'
import type { Session } from './session.js'
import type { Awaitable } from './store/store.js'
import type { Gap } from './wire/frame.js'

/** An event that a client has posted. */
export interface Message {
  /** The event's name; `message` where the client gave none. */
  readonly event: string
  /** The JSON that came with it; `undefined` for an empty body. */
  readonly data: unknown
  /** Its idempotency key, where it had one. */
  readonly id: string | undefined
}

/** What can be listened to with `addHook`, and with which arguments. Hooks of a name run in order of registration. */
export interface Hooks<S = Session> {
  /**
   * A client has opened a session. What it returns, an object, goes into the data of the `welcome` event; what it
   * throws refuses the session and is the answer to the request.
   */
  onOpen: (session: S, request: FastifyRequest) => Awaitable<object | undefined | void>
  /** A client has come back to its session, or a second stream replaces the first. Returns and throws as `onOpen`. */
  onResume: (session: S, request: FastifyRequest) => Awaitable<object | undefined | void>
  /** A client has posted an event for which there is no handler. The first hook to return something, or to answer by `reply.send`, is the last to run. */
  onMessage: (session: S, message: Message, request: FastifyRequest, reply: UpwardReply) => unknown
  /** The stream was lost, also before it began where `onResume` was told of it; the session lives on. */
  onDisconnect: (session: S) => Awaitable<void>
  /** A client was told that part of what was sent can no longer be had. */
  onGap: (session: S, gap: Gap) => Awaitable<void>
  /** The session is over. The reason is `close`'s, or `expired`, `deleted` (by the client), `refused` (by `onOpen`), `aborted` (the client left before the welcome), `shutdown`, or `lost` (by a store that has come back empty). */
  onClose: (session: S, reason: string) => Awaitable<void>
}

type Lists = { [Name in keyof Hooks]: Array<Hooks[Name]> }

/** The app's hooks, by name. */
export class HookLists {
  readonly #lists: Lists = { onOpen: [], onResume: [], onMessage: [], onDisconnect: [], onGap: [], onClose: [] }
  readonly #log: FastifyBaseLogger

  constructor (log: FastifyBaseLogger) {
    this.#log = log
  }

  add<Name extends keyof Hooks> (name: Name, hook: Hooks[Name]): void {
    if (!Object.hasOwn(this.#lists, name)) {
      throw new HookInvalid(`There is no hook "${String(name)}"; there are ${Object.keys(this.#lists).join(', ')}`)
    }
    if (typeof hook !== 'function') throw new HookInvalid(`The hook ${name} must be a function`)
    this.#lists[name].push(hook)
  }

  has (name: keyof Hooks): boolean {
    return this.#lists[name].length > 0
  }

  /** Runs the hooks of a new or resumed stream and joins what they return. */
  async welcome (name: 'onOpen' | 'onResume', session: Session, request: FastifyRequest): Promise<object> {
    let data = {}
    for (const hook of this.#lists[name]) data = { ...data, ...await hook(session, request) }
    return data
  }

  /** Runs the hooks for a message until one answers it. */
  async message (session: Session, message: Message, request: FastifyRequest, reply: UpwardReply): Promise<unknown> {
    for (const hook of this.#lists.onMessage) {
      const answer = await hook(session, message, request, reply)
      if (answer !== undefined || reply.sent) return answer
    }
    return undefined
  }

  /** Runs hooks that tell what has happened. Nobody waits for their verdict: what they throw is logged. */
  async tell<Name extends 'onDisconnect' | 'onGap' | 'onClose'> (name: Name, ...args: Parameters<Hooks[Name]>): Promise<void> {
    for (const hook of this.#lists[name]) {
      try {
        await (hook as (...args: Parameters<Hooks[Name]>) => Awaitable<void>)(...args)
      } catch (error) {
        this.#log.error({ err: error, session: args[0].label }, `a ${name} hook failed`)
      }
    }
  }
}
