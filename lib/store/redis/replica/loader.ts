import type { Subscriber } from '../subscriber.js'
import type { Inbox } from './inbox.js'
import type { LogItem, ReadItem, ReadValue, Reducer } from './reducer.js'
import { RunReplica } from './run-replica.js'

/** Maximum number of logs and sessions that one command reads. */
const MAX_ITEMS_PER_READ = 200

/** Reads whatever is missing in the replicas of this process: after a loss of publications, and for new readers. */
export class Loader {
  readonly #reducer: Reducer
  readonly #inbox: Inbox
  readonly #subscriber: Pick<Subscriber, 'isReady' | 'add'>
  readonly #toPubSubChannel: (channel: string) => string
  #isRunning = false

  constructor (reducer: Reducer, inbox: Inbox, subscriber: Pick<Subscriber, 'isReady' | 'add'>, toPubSubChannel: (channel: string) => string) {
    this.#reducer = reducer
    this.#inbox = inbox
    this.#subscriber = subscriber
    this.#toPubSubChannel = toPubSubChannel
  }

  /** Starts to read, unless it is in progress. */
  start (): void {
    if (this.#isRunning) return
    this.#isRunning = true
    this.#run()
  }

  async #run (): Promise<void> {
    // Later in this tick, so that all logs that are missing now are read together.
    await Promise.resolve()
    try {
      await this.#readAll()
    } catch {
      // Redis is unavailable. `RedisNode` starts the loader again in its next interval.
    } finally {
      this.#isRunning = false
    }
  }

  async #readAll (): Promise<void> {
    const { incomplete, unverified } = this.#reducer
    while (incomplete.size + unverified.size > 0 && this.#subscriber.isReady) {
      const replicas = take(incomplete, MAX_ITEMS_PER_READ)
      // What is published after the read must arrive.
      await this.#subscriber.add(replicas.filter(({ kind }) => kind === 'channel').map(({ name }) => this.#toPubSubChannel(name)))
      // Meanwhile, streams may have ended: a read for one would make this node its owner again.
      const items = [
        ...replicas.filter(replica => incomplete.has(replica)).map(replica => this.#itemOf(replica)),
        ...take(unverified, MAX_ITEMS_PER_READ - replicas.length).map((state): ReadItem => ({ unverified: state }))
      ]
      await this.#inbox.execute<readonly ReadValue[]>('read', items.flatMap(toArguments), values => { this.#reducer.applyRead(items, values) })
    }
    // Before the promise settles, because a `start` until then would be ignored.
    this.#isRunning = false
  }

  #itemOf (replica: LogItem['replica']): LogItem {
    const [after, through] = replica.missingRange
    const { epoch = 0, streamVersion = 0 } = this.#reducer.attached.get(replica.name) ?? {}
    return { replica, after, through, epoch, version: streamVersion }
  }
}

function toArguments (item: ReadItem): Array<string | number> {
  if ('unverified' in item) return [item.unverified instanceof RunReplica ? 'unverified_run' : 'unverified_session', item.unverified.id, 0, 0, 0, 0, 0]
  const { replica: { kind, name, newestEntryPosition }, after, through, epoch, version } = item
  return [kind, name, after, through === Infinity ? 9e15 : through, newestEntryPosition, epoch, version]
}

function take<T> (items: Iterable<T>, count: number): T[] {
  const taken: T[] = []
  for (const item of items) {
    if (taken.length >= count) break
    taken.push(item)
  }
  return taken
}
