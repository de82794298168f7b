import { randomBytes } from 'node:crypto'
import { noop, settlesWithin, type Awaitable } from '../../awaitable.js'
import { isNotExecuted, type Argument, type CommandQueue } from './command-queue.js'
import { COMMAND_TIMEOUT } from './connection.js'
import type { CommandName } from './script.js'

/** A call that has rejected, although Redis may have executed it. */
interface UncertainCall {
  readonly number: number
  /** Resolves when the result was read, and `onLateResult` was called if Redis has executed the call. */
  readonly resultRead: Promise<void>
}

/**
 * Commands that decide which hooks of the app run: those that create and close sessions, and joins and leaves. Redis records what each
 * of them has changed. If a call rejects because its reply was lost, the result is read later.
 */
export class Calls {
  readonly #commandQueue: CommandQueue
  readonly #processId = randomBytes(9).toString('base64url')
  #count = 0
  /** The numbers of the calls whose results are not known yet, the oldest first. Redis keeps the results from the oldest on. */
  readonly #unknownResults = new Set<number>()
  readonly #uncertainBySession = new Map<string, Set<UncertainCall>>()
  /** Promises that resolve when the result of a call is known and applied. */
  readonly #results = new Set<Promise<void>>()

  constructor (commandQueue: CommandQueue) {
    this.#commandQueue = commandQueue
  }

  /**
   * Executes a command with these arguments and the id of the call. Rejects with StoreUnavailable if that takes too long. If Redis
   * has executed it all the same, `onLateResult` is called with the recorded result as soon as it is known. Later calls for the same
   * session resolve after that, but are delayed by at most COMMAND_TIMEOUT.
   */
  execute (name: CommandName, sessionId: string, args: readonly Argument[], onLateResult: (result: string) => Awaitable<void>): Promise<unknown> {
    const number = ++this.#count
    this.#unknownResults.add(number)
    const [oldest] = this.#unknownResults
    const id = `${this.#processId} ${number} ${oldest}`
    const reply = this.#commandQueue.execute(name, sessionId, ...args, id)
    const markKnown = (): void => { this.#unknownResults.delete(number) }
    const onRejected = (error: unknown): Awaitable<void> => isNotExecuted(error) ? markKnown() : this.#applyLater(sessionId, number, id, onLateResult, markKnown)
    const settled: Promise<void> = reply.then(markKnown, onRejected).then(() => { this.#results.delete(settled) })
    this.#results.add(settled)
    return reply.then(async value => {
      // So that the hooks start in the order of the calls.
      const earlier = [...this.#uncertainBySession.get(sessionId) ?? []].filter(call => call.number < number)
      if (earlier.length > 0) await settlesWithin(Promise.all(earlier.map(({ resultRead }) => resultRead)), COMMAND_TIMEOUT)
      return value
    })
  }

  /** Resolves when the results of all calls are known and applied. */
  async settle (): Promise<void> {
    while (this.#results.size > 0) await Promise.all(this.#results)
  }

  /** Reads the result of a call that has rejected. Resolves when it is applied; never rejects. */
  #applyLater (sessionId: string, number: number, id: string, onLateResult: (result: string) => Awaitable<void>, onKnown: () => void): Promise<void> {
    const calls = this.#uncertainBySession.get(sessionId) ?? new Set()
    this.#uncertainBySession.set(sessionId, calls)
    let applied: Awaitable<void>
    // Redis executes commands in order: if it has not executed the call by now, it never will.
    const resultRead = this.#commandQueue.executeWithoutDeadline('find_call', id).then(result => {
      if (result !== null) applied = onLateResult(result as string)
    }).catch(noop).finally(() => {
      onKnown()
      calls.delete(call)
      if (calls.size === 0) this.#uncertainBySession.delete(sessionId)
    })
    const call: UncertainCall = { number, resultRead }
    calls.add(call)
    return resultRead.then(() => applied).catch(noop)
  }
}
