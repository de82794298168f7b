import { createError } from '@fastify/error'
import type { FastifyRequest } from 'fastify'
import { andThen, type Awaitable } from '../awaitable.js'
import { asError, EventUnknown, HandlerInvalid, PartInvalid, quote } from '../errors.js'
import { isEventName, isUserEvent, PART_EVENT, RESPONSE_EVENT } from '../wire/frame.js'
import { echo } from './echo.js'
import type { HookRunner, Message } from './hooks.js'
import type { Session } from './session.js'
import type { UpwardReply } from './upward-reply.js'

/** What a handler receives in addition to the session and the data. */
export interface HandlerContext {
  /** The request in which the message arrived. */
  readonly request: FastifyRequest
  /** Sets the status, the headers and the body of the response. */
  readonly reply: UpwardReply
  /** The message, with its event name and its idempotency key. */
  readonly message: Message
  /**
   * Aborts when nobody needs the values of an async generator any more: when the client stops it, when the session is closed, and
   * when the process loses the store or closes. For any other handler, aborts when the handler has not settled within
   * `handlerTimeout`. This is a getter, which creates the signal when it is first used: `{ ...context }` does not contain it.
   */
  readonly signal: AbortSignal
}

/** This is a class, because V8 creates a hidden class for each object literal with a getter. */
class Context implements HandlerContext {
  readonly request: FastifyRequest
  readonly reply: UpwardReply
  readonly message: Message

  constructor (request: FastifyRequest, reply: UpwardReply, message: Message) {
    this.request = request
    this.reply = reply
    this.message = message
  }

  // The signal is created only for handlers that use it.
  get signal (): AbortSignal {
    return this.reply.signal
  }
}

/** Handles the messages with one event name. The value that it returns, or resolves with, is the body of the response. Without a value, the response is `202 {"status":"accepted"}`. The values of an async generator, or of another async iterable, are sent as `part` events, without blocking later messages. */
export type MessageHandler<Data> = (session: Session, data: Data, context: HandlerContext) => unknown

/** Options of a handler. */
export interface HandlerOptions<Schema> {
  /** A schema for the data, in the format of the app's validator compiler; JSON Schema if the app has not set one. Default: all data is valid. */
  readonly schema?: Schema
  /** Option `handlerTimeout` of the plugin for this handler, in milliseconds. Default: that of the plugin; 0 or `false` turns the timeout off. */
  readonly handlerTimeout?: number | false
  /** Whether the handler runs at once, also while the session's other messages are handled or wait. They do not wait for it either. Default: `false`, the messages of a session are handled one at a time, in order. */
  readonly concurrent?: boolean
}

/** A validation function. It reports its result in any of the ways that Fastify supports. */
type Validator = ((data: unknown, context?: { parentData: object, parentDataProperty: string }) => unknown) & { errors?: unknown, schemaEnv?: unknown }

/** Creates an error from the errors of a validator, like the argument of Fastify's `setSchemaErrorFormatter`. */
export type ErrorFormatter = (errors: unknown, dataVar: string) => Error

/** Compiles the schema of an event; throws if the schema is invalid. */
export type CompileSchema = (schema: unknown, event: string) => Validator

/** Handles a message. The result, if it is not undefined, is the body of the response. */
type CallHandler = (reply: UpwardReply) => unknown

interface Handler {
  readonly schema: unknown
  /** In milliseconds; 0 turns it off. `undefined` if that of the plugin applies. */
  readonly timeout: number | undefined
  readonly isConcurrent: boolean
  readonly run: MessageHandler<unknown>
  validator: Validator | undefined
}

// Fastify does not export its own error with this code. Error handlers check only the code and the properties.
const ValidationError = createError<[string]>('FST_ERR_VALIDATION', '%s', 400)

/** Handles the messages that the plugin itself handles. */
interface ReservedHandlers {
  /** Stops the values of the handler of an earlier message. */
  stopParts (session: Session, key: string): Awaitable<void>
  /** Passes the answer of the client to the process that has sent the request. */
  answer (session: Session, data: unknown): Awaitable<void>
}

/** Whether the plugin handles the messages with this event name. */
const isReserved = (event: string): boolean => event === PART_EVENT || event === RESPONSE_EVENT

/** Keeps the handlers of the app. A message is handled by the handler of its event; if there is none, by the `onMessage` hooks; if there are none either and the event is `message`, by the echo. */
export class HandlerRegistry {
  readonly #handlers = new Map<string, Handler>()
  readonly #hooks: HookRunner
  readonly #reserved: ReservedHandlers
  #compile: CompileSchema | undefined
  #formatErrors: ErrorFormatter = defaultErrorFormatter

  constructor (hooks: HookRunner, reserved: ReservedHandlers) {
    this.#hooks = hooks
    this.#reserved = reserved
  }

  /** Whether messages with the event name `message` are handled by the echo. */
  get usesEcho (): boolean {
    return !this.#handlers.has('message') && !this.#hooks.has('onMessage')
  }

  set (event: string, options: HandlerOptions<unknown>, run: MessageHandler<unknown>): void {
    if (!isEventName(event)) throw new HandlerInvalid('The event of a handler must be a non-empty string without CR, LF and NUL')
    if (isReserved(event)) throw new HandlerInvalid(`Event "${event}" cannot have a handler, because the plugin handles it; choose another name`)
    if (typeof run !== 'function') throw new HandlerInvalid(`The handler of event "${event}" must be a function, as the last argument of "handle"`)
    if (typeof options !== 'object' || options === null) throw new HandlerInvalid(`The options of the handler of event "${event}" must be an object, as the second argument of "handle"`)
    const { schema, handlerTimeout, concurrent = false, ...unknown } = options
    const [unknownName] = Object.keys(unknown)
    if (unknownName !== undefined) throw new HandlerInvalid(`Option "${unknownName}" of the handler of event "${event}" must be removed: there is no such option`)
    if (this.#handlers.has(event)) throw new HandlerInvalid(`Event "${event}" already has a handler`)
    const timeout = handlerTimeout === false ? 0 : handlerTimeout
    if (timeout !== undefined && !(Number.isInteger(timeout) && timeout >= 0 && timeout < 2 ** 31)) {
      throw new HandlerInvalid(`Option "handlerTimeout" of the handler of event "${event}" must be false or a whole number of milliseconds from 0 to ${2 ** 31 - 1}; it is ${String(timeout)}`)
    }
    if (typeof concurrent !== 'boolean') throw new HandlerInvalid(`Option "concurrent" of the handler of event "${event}" must be true or false; it is ${String(concurrent)}`)
    const handler = { schema, timeout, isConcurrent: concurrent, run, validator: undefined }
    this.#compileSchema(event, handler)
    this.#handlers.set(event, handler)
  }

  /** Returns the timeout that the app has set for the handler of an event, in milliseconds; 0 if it has turned it off, `undefined` if it has not set one. */
  getTimeout (event: string): number | undefined {
    return this.#handlers.get(event)?.timeout
  }

  /** Returns whether the messages with an event name are handled concurrently. */
  isConcurrent (event: string): boolean {
    return isReserved(event) || this.#handlers.get(event)?.isConcurrent === true
  }

  /** The event names whose messages are handled concurrently. */
  get concurrentEvents (): string[] {
    return [...this.#handlers.keys()].filter(event => this.isConcurrent(event))
  }

  /** Compiles the schemas of all handlers, so that an invalid schema fails the boot. The schema of a handler that is set later is compiled in `set`. */
  setCompiler (compile: CompileSchema, formatErrors: ErrorFormatter = defaultErrorFormatter): void {
    this.#compile = compile
    this.#formatErrors = formatErrors
    for (const [event, handler] of this.#handlers) this.#compileSchema(event, handler)
  }

  #compileSchema (event: string, handler: Handler): void {
    if (handler.schema === undefined) return
    if (isRouteSchema(handler.schema)) throw new HandlerInvalid(`The schema of event "${event}" must be that of the data: pass the value of "body" instead of the object that contains it`)
    try {
      handler.validator = this.#compile?.(handler.schema, event)
    } catch (error) {
      throw Object.assign(new HandlerInvalid(`The schema of event "${event}" is invalid: ${asError(error).message}`), { cause: error })
    }
  }

  /**
   * Validates a message and returns the function that handles it. Throws or rejects if nothing handles the event or if the
   * data is invalid. Such a message is refused: no response is kept for its key. `assertMayStart` is called after the `preHandle` hooks.
   */
  prepare (session: Session, message: Message, request: FastifyRequest, assertMayStart: () => void): Awaitable<CallHandler> {
    const prepared = this.#prepare(session, message, request)
    if (isReserved(message.event) || !this.#hooks.has('preHandle')) return prepared
    return andThen(prepared, run => async reply => {
      await this.#hooks.runPreHandleHooks(session, message, request, reply)
      if (reply.sent || reply.isAborted) return undefined
      assertMayStart()
      return run(reply)
    })
  }

  #prepare (session: Session, message: Message, request: FastifyRequest): Awaitable<CallHandler> {
    const handler = this.#handlers.get(message.event)
    if (handler !== undefined) {
      const data = handler.validator === undefined ? message.data : validate(handler.validator, message.data, this.#formatErrors)
      return andThen(data, data => reply => handler.run(session, data, new Context(request, reply, message)))
    }
    if (message.event === PART_EVENT) {
      const { message: key } = Object(message.data) as { message?: unknown }
      if (typeof key !== 'string') throw new PartInvalid()
      return () => this.#reserved.stopParts(session, key)
    }
    if (message.event === RESPONSE_EVENT) return () => this.#reserved.answer(session, message.data)
    // A hook may send the data to other clients in an event of the same name, which fails for a reserved name. The response
    // would be a 500, although the error is the client's.
    if (!isUserEvent(message.event)) throw new EventUnknown(quote(message.event), ', and onMessage hooks do not run for it, because the name is reserved')
    if (this.#hooks.has('onMessage')) {
      return reply => this.#hooks.runMessageHooks(session, message, request, reply)
    }
    if (message.event === 'message') return reply => echo(session, message.data, reply)
    throw new EventUnknown(quote(message.event), '')
  }
}

/** Whether a schema has the form of a schema of a route of Fastify, which contains one schema for each part of the request. */
function isRouteSchema (schema: unknown): boolean {
  return typeof schema === 'object' && schema !== null && 'body' in schema && typeof schema.body === 'object' && !('type' in schema || 'parse' in schema)
}

/** Validates data as Fastify validates a body. Returns the data to use, which the validator may have changed. */
function validate (validator: Validator, data: unknown, formatErrors: ErrorFormatter): unknown {
  // As Fastify does for a missing body, missing data is validated as `null`; the handler receives `undefined`.
  const parent: { data: unknown } = { data: data ?? null }
  // Ajv, whose functions have `schemaEnv`, can replace the data as a whole only if it has access to its parent.
  const result = validator(parent.data, validator.schemaEnv === undefined ? undefined : { parentData: parent, parentDataProperty: 'data' })
  const getValidData = (): unknown => data === undefined ? parent.data ?? undefined : parent.data
  if (result instanceof Promise) {
    // An asynchronous validator resolves with the data, not with an object `{ error, value }`.
    return result.then(valid => {
      if (valid === false) throw createValidationError(validator.errors, formatErrors)
      return getValidData()
    }, (error: { errors?: unknown }) => { throw createValidationError(error.errors ?? error, formatErrors) })
  }
  if (result === false) throw createValidationError(validator.errors, formatErrors)
  const { error, value = parent.data } = Object(result) as { error?: unknown, value?: unknown }
  if (error !== undefined && error !== null) throw createValidationError(error, formatErrors)
  parent.data = value
  return getValidData()
}

/** Creates the error of a message whose data is invalid, with the properties that Fastify adds. */
function createValidationError (errors: unknown, formatErrors: ErrorFormatter): Error {
  const properties = { statusCode: 400, code: 'FST_ERR_VALIDATION', validationContext: 'body' }
  if (errors instanceof Error) return Object.assign(errors, { ...properties, ...errors })
  const error = formatErrors(errors, 'body')
  return Object.assign(error, { ...properties, ...error, validation: errors })
}

function defaultErrorFormatter (errors: unknown, dataVar: string): Error {
  const messages = [errors].flat().map(error => {
    const { instancePath = '', message = 'is not valid' } = Object(error) as { instancePath?: string, message?: string }
    return `${dataVar}${instancePath} ${message}`
  })
  return new ValidationError(messages.join(', '))
}
