import { IdempotencyKeyReused, SessionUnknown, StoreUnavailable, TooManyWaiting } from '../../errors.js'
import { noop } from '../../awaitable.js'
import type { QueueResult, QueuedMessage, MessageQueue, StoredResponse } from '../message-queue.js'
import type { Line } from './line.js'
import { decodeOutcome, encodeOutcome } from './outcome.js'
import type { RedisState } from './record.js'

/** How far a batch runs ahead of what Redis has kept: so many messages are in doubt, besides the one being handled, where this process dies. */
const AHEAD = 8

/** A message that has no verdict yet. */
class Item {
  readonly letter: QueuedMessage
  readonly key: string
  readonly payload: string
  readonly delivery: Promise<QueueResult>
  resolve: (delivery: QueueResult | Promise<QueueResult>) => void = noop
  reject: (error: unknown) => void = noop

  constructor (letter: QueuedMessage) {
    this.letter = letter
    this.key = letter.key ?? ''
    this.payload = letter.key === undefined ? '' : letter.fingerprint()
    this.delivery = new Promise((resolve, reject) => {
      this.resolve = resolve
      this.reject = reject
    })
    this.delivery.catch(noop)
  }
}

/** Messages of one request that are to be handled, in a row, when it is their turn. */
interface Submission {
  readonly state: RedisState
  readonly number: number
  items: Item[]
  /** The name of the node under which it stands in the queue. */
  node: string
  asking: boolean
  /** Something was told while it was asked about: it is to be asked about once more. */
  again: boolean
}

type Begun = readonly [standing: 'unknown' | 'many' | 'again' | 'run' | 'wait', verdicts: readonly string[], record: readonly string[]]

export interface MailroomListener {
  /** What is known of a session is not new any more. */
  changed (state: RedisState, record: readonly string[]): void
}

/**
 * The messages that this process has taken. Each stands in its session's queue in Redis until it is handled; it is
 * asked for when it is told, and with every tick, for what is told may get lost.
 */
export class Mailroom {
  readonly #line: Line
  readonly #listener: MailroomListener
  readonly #waiting = new Map<number, Submission>()
  readonly #handling = new Set<Promise<void>>()
  #closed = false
  #last = 0

  constructor (line: Line, listener: MailroomListener) {
    this.#line = line
    this.#listener = listener
  }

  mailbox (state: RedisState): MessageQueue {
    return {
      enqueue: async letter => {
        const [delivery] = await this.#submit(state, [letter])
        return delivery as Promise<QueueResult>
      },
      enqueueAll: letters => this.#submit(state, letters)
    }
  }

  /** It may be the turn of one of the messages that wait, or there may be an outcome for it. */
  ask (number?: number): void {
    if (number !== undefined) {
      const submission = this.#waiting.get(number)
      if (submission !== undefined) this.#tell(submission)
      return
    }
    for (const submission of this.#waiting.values()) if (!submission.asking) this.#begin(submission).catch(noop)
  }

  /** There is an outcome, or none after all, for those that wait for that of a key. */
  settled (id: string, key: string): void {
    for (const submission of this.#waiting.values()) {
      if (submission.state.id === id && submission.items.some(item => item.key === key)) this.#tell(submission)
    }
  }

  /** Whether a message of a session is being handled here that may be handled elsewhere, too, for this process was taken for dead. */
  isInDoubt (state: RedisState): boolean {
    return state.handledBy.some(node => node !== this.#line.node)
  }

  /** Refuses those that wait. Resolves when those that are handled are done. */
  async close (): Promise<void> {
    this.#closed = true
    for (const submission of this.#waiting.values()) if (!submission.asking) this.#askAgain(submission)
    await Promise.all(this.#handling)
  }

  #askAgain (submission: Submission): void {
    if (!this.#closed) this.#begin(submission).catch(noop)
    else if (this.#waiting.delete(submission.number)) for (const item of submission.items) item.reject(new StoreUnavailable())
  }

  #tell (submission: Submission): void {
    if (submission.asking) submission.again = true
    else this.#askAgain(submission)
  }

  async #submit (state: RedisState, letters: readonly QueuedMessage[]): Promise<Array<Promise<QueueResult>>> {
    const deliveries: Array<Promise<QueueResult>> = []
    const items: Item[] = []
    for (const letter of letters) {
      const item = new Item(letter)
      const twin = item.key === '' ? undefined : items.find(({ key }) => key === item.key)
      if (twin === undefined) items.push(item)
      else if (twin.payload === item.payload) item.resolve(twin.delivery.then(({ response }) => ({ response, replayed: true })))
      else item.reject(new IdempotencyKeyReused())
      deliveries.push(item.delivery)
    }
    await this.#begin({ state, number: ++this.#last, items, node: '', asking: false, again: false })
    return deliveries
  }

  /** Asks how it stands with messages, and does what is to be done. Rejects where none of them is accepted. */
  async #begin (submission: Submission): Promise<void> {
    const { state, number, items } = submission
    this.#waiting.set(number, submission)
    submission.asking = true
    submission.again = false
    let asked = ''
    // What is asked for while this process has no name is done under its next.
    const node = (): string => asked === '' ? this.#line.node : asked
    try {
      const what = items.flatMap(({ key, payload }) => [key, payload])
      let begun: Begun
      do {
        asked = this.#line.node
        begun = await this.#line.run('begin', state.id, number, state.version, ...what) as Begun
      } while (begun[0] === 'again')
      const [standing, verdicts, record] = begun
      submission.node = node()
      if (record.length > 0 || standing === 'unknown') this.#listener.changed(state, record)
      if (standing === 'unknown') throw new SessionUnknown()
      if (standing === 'many') throw new TooManyWaiting(Number(verdicts[0]))
      this.#sort(submission, items, standing, verdicts)
    } catch (error) {
      this.#waiting.delete(number)
      if (error instanceof StoreUnavailable) this.#settle(state, `${node()} ${number}`, true, items.flatMap(({ key, payload }) => [key, payload, '']))
      for (const item of items) item.reject(error)
      throw error
    } finally {
      submission.asking = false
      if ((submission.again || this.#closed) && this.#waiting.has(number)) this.#askAgain(submission)
    }
  }

  /** `items` are those that were asked about. */
  #sort (submission: Submission, items: readonly Item[], standing: 'run' | 'wait', verdicts: readonly string[]): void {
    const { state, number } = submission
    const fresh: Item[] = []
    const repeats: Item[] = []
    const left: Item[] = []
    for (const [index, item] of items.entries()) {
      const verdict = verdicts[index] as string
      if (verdict === 'reused') item.reject(new IdempotencyKeyReused())
      else if (verdict.startsWith('s')) item.resolve({ response: decodeOutcome(verdict.slice(1)), replayed: true })
      else {
        (verdict === 'new' ? fresh : repeats).push(item)
        left.push(item)
      }
    }
    if (left.length > 0 && (fresh.length === 0 || standing === 'wait')) {
      // Those that wait for the outcome of another keep their places: where that dies they are handled before what comes behind them.
      submission.items = left
      return
    }
    this.#waiting.delete(number)
    // What they wait for stands behind this, in the queue.
    for (const item of repeats) {
      const repeat: Submission = { state, number: ++this.#last, items: [item], node: '', asking: false, again: false }
      this.#waiting.set(repeat.number, repeat)
      if (this.#closed) this.#askAgain(repeat)
    }
    if (fresh.length === 0) return
    const { node } = submission
    state.handledBy.push(node)
    const handling = this.#handle({ ...submission, items: fresh }).finally(() => {
      this.#handling.delete(handling)
      state.handledBy.splice(state.handledBy.indexOf(node), 1)
    })
    this.#handling.add(handling)
  }

  #settle (state: RedisState, ticket: string, last: boolean, outcomes: string[]): Promise<void> {
    return this.#line.keep('settle', state.id, ticket, last ? 1 : 0, ...outcomes)
  }

  async #handle ({ state, number, node, items }: Submission): Promise<void> {
    const settled: Array<Promise<void> | undefined> = []
    for (const [index, { letter, key, payload, resolve, reject }] of items.entries()) {
      // It was taken for dead: what is left may have been handled elsewhere.
      if (node !== this.#line.node) {
        reject(new StoreUnavailable())
        continue
      }
      let outcome: StoredResponse | undefined
      let failure: unknown
      try {
        outcome = await letter.handle()
      } catch (error) {
        failure = error
      }
      const last = index === items.length - 1
      // Its answer does not wait for this: nothing overtakes it, and it is not given up.
      settled.push(last || key !== '' ? this.#settle(state, `${node} ${number}`, last, key === '' ? [] : [key, payload, outcome === undefined ? '' : encodeOutcome(outcome)]) : undefined)
      if (outcome === undefined) reject(failure)
      else resolve({ response: outcome, replayed: false })
      await settled[index - AHEAD]
    }
  }
}
