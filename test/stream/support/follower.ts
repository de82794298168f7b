import { signal, within } from '../../support/wait.js'
import type { TestedEventSource } from '../../support/eventsources.js'

/** Records what an EventSource receives; the data of its messages is `{ n }`, numbered from 1. */
export interface Follower {
  /** Numbers in order of arrival. */
  readonly numbers: number[]
  /** Descriptions of errors: a number out of order, a gap, or a welcome whose id is not the client's cursor. */
  readonly problems: string[]
  /** Data of the welcomes, in order. */
  readonly welcomes: Array<{ sessionId: string, resumed: boolean }>
  /** The last event id that was received. */
  readonly lastId: string
  /** Resolves with the session id of the first welcome. */
  readonly welcomed: Promise<string>
  /** Resolves when this number, or a higher one, was received. */
  reached: (n: number) => Promise<void>
}

/** Records the numbered messages of the given event names. */
export function follow (source: TestedEventSource, events: readonly string[] = ['message']): Follower {
  const numbers: number[] = []
  const problems: string[] = []
  const welcomes: Follower['welcomes'] = []
  const welcomed = signal<string>()
  const waiting = new Set<{ n: number, resolve: () => void }>()
  let lastId = ''
  for (const event of events) {
    source.addEventListener(event, ({ data, lastEventId }) => {
      const { n } = JSON.parse(String(data)) as { n: number }
      const last = numbers.at(-1) ?? 0
      if (n !== last + 1) problems.push(`${n} came after ${last}`)
      numbers.push(n)
      lastId = String(lastEventId)
      for (const waiter of waiting) {
        if (waiter.n > n) continue
        waiting.delete(waiter)
        waiter.resolve()
      }
    })
  }
  source.addEventListener('welcome', ({ data, lastEventId }) => {
    const welcome = JSON.parse(String(data)) as Follower['welcomes'][number]
    if (welcome.resumed && lastEventId !== lastId) problems.push(`a welcome with id ${String(lastEventId)} came after ${lastId}`)
    welcomes.push(welcome)
    lastId = String(lastEventId)
    welcomed.resolve(welcome.sessionId)
  })
  source.addEventListener('gap', ({ data }) => { problems.push(`a gap came: ${String(data)}`) })
  return {
    numbers,
    problems,
    welcomes,
    get lastId () { return lastId },
    welcomed: within(welcomed.promise, 'the welcome'),
    reached: n => {
      if ((numbers.at(-1) ?? 0) >= n) return Promise.resolve()
      const { promise, resolve } = signal()
      waiting.add({ n, resolve })
      return within(promise, `message ${n}`, 30_000)
    }
  }
}
