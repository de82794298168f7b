import createError from '@fastify/error'
import type { FastifyRequest } from 'fastify'
import { echo } from './echo.js'
import { EventUnknown, HandlerInvalid } from './errors.js'
import type { HookLists, Message } from './hooks.js'
import type { UpwardReply } from './reply.js'
import { chain } from './promises.js'
import type { Session } from './session.js'
import type { Awaitable } from './store/store.js'
import { isEventName, isSendable } from './wire/frame.js'

/** What a handler is given besides the data. */
export interface HandlerContext {
  /** The request that brought the message. */
  readonly request: FastifyRequest
  readonly reply: UpwardReply
  readonly message: Message
}

/** Handles one upward event. What it returns, or promises, is the answer; nothing is `202 {"status":"accepted"}`. */
export type MessageHandler<Data> = (session: Session, data: Data, context: HandlerContext) => unknown

export interface HandlerOptions<Schema> {
  /** What the data has to be like, in the terms of the app's validator compiler: JSON Schema unless it was changed. Default: anything. */
  readonly schema?: Schema
}

/** Tells whether data is valid, in one of the ways that Fastify lets a validator tell it. */
type Validator = ((data: unknown, context?: { parentData: object, parentDataProperty: string }) => unknown) & { errors?: unknown, schemaEnv?: unknown }

/** Makes a validator of an event's schema; throws for a schema that is none. */
export type Compile = (schema: unknown, event: string) => Validator

interface Handler {
  readonly schema: unknown
  readonly run: MessageHandler<unknown>
  validator: Validator | undefined
}

// Fastify's own error of that code is not exported to plugins; the shape is what error handlers look at.
const ValidationError = createError<[string]>('FST_ERR_VALIDATION', '%s', 400)

/** Finds who handles an upward message: its handler, else the hooks, else, for `message`, the echo. */
export class Dispatcher {
  readonly #handlers = new Map<string, Handler>()
  readonly #hooks: HookLists
  #compile: Compile | undefined

  constructor (hooks: HookLists) {
    this.#hooks = hooks
  }

  /** Whether the app has left `message` to the echo. */
  get echoes (): boolean {
    return !this.#handlers.has('message') && !this.#hooks.has('onMessage')
  }

  set (event: string, { schema }: HandlerOptions<unknown>, run: MessageHandler<unknown>): void {
    if (!isEventName(event)) throw new HandlerInvalid('The event of a handler must be a non-empty string without CR, LF and NUL')
    if (typeof run !== 'function') throw new HandlerInvalid(`The handler of event "${event}" must be a function`)
    if (this.#handlers.has(event)) throw new HandlerInvalid(`There is a handler for event "${event}" already`)
    const handler = { schema, run, validator: undefined }
    this.#validate(event, handler)
    this.#handlers.set(event, handler)
  }

  /** Compiles the schemas of the handlers: at boot, so that a faulty one is found then, and from then on as they come. */
  compileWith (compile: Compile): void {
    this.#compile = compile
    for (const [event, handler] of this.#handlers) this.#validate(event, handler)
  }

  #validate (event: string, handler: Handler): void {
    if (handler.schema !== undefined) handler.validator = this.#compile?.(handler.schema, event)
  }

  /**
   * Gives what is to be run for a message; throws, or rejects, where nothing is, or the data is not what the schema
   * says: such a message is refused, not handled.
   */
  prepare (session: Session, message: Message, request: FastifyRequest): Awaitable<(reply: UpwardReply) => unknown> {
    const handler = this.#handlers.get(message.event)
    if (handler !== undefined) {
      const data = handler.validator === undefined ? message.data : validate(handler.validator, message.data)
      return chain(data, data => reply => handler.run(session, data, { request, reply, message }))
    }
    // An app that relays messages would be refused the name, and the client be told of a fault of the server's.
    if (!isSendable(message.event)) throw new EventUnknown(JSON.stringify(message.event))
    if (this.#hooks.has('onMessage')) {
      return reply => this.#hooks.message(session, message, request, reply)
    }
    if (message.event === 'message') return reply => echo(session, message.data, reply)
    throw new EventUnknown(JSON.stringify(message.event))
  }
}

/** Validates as Fastify does a body, and answers with the data to use. */
function validate (validator: Validator, data: unknown): unknown {
  const holder: { data: unknown } = { data: data ?? null }
  // Ajv can put another value in the place of the data only where it is told what holds it.
  const verdict = validator(holder.data, validator.schemaEnv === undefined ? undefined : { parentData: holder, parentDataProperty: 'data' })
  const used = (): unknown => data === undefined ? holder.data ?? undefined : holder.data
  if (verdict instanceof Promise) {
    // It promises the data itself, which is no verdict, whatever properties it has.
    return verdict.then(valid => {
      if (valid === false) throw invalid(validator.errors)
      return used()
    }, (error: { errors?: unknown }) => { throw invalid(error.errors ?? error) })
  }
  if (verdict === false) throw invalid(validator.errors)
  const { error, value = holder.data } = Object(verdict) as { error?: unknown, value?: unknown }
  if (error !== undefined && error !== null) throw invalid(error)
  holder.data = value
  return used()
}

function invalid (failures: unknown): Error {
  const first: unknown = Array.isArray(failures) ? failures[0] : failures
  const { instancePath = '', message = 'is not valid' } = Object(first) as { instancePath?: string, message?: string }
  return Object.assign(new ValidationError(`body${instancePath} ${message}`), { validation: failures, validationContext: 'body' })
}
