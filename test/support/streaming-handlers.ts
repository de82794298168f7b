import type { Sessions } from '../../lib/index.js'
import type { ClientStream, StreamEvent } from './http-client.js'
import { deferred } from './wait.js'

/** The data of the `part` events that a stream has received. */
export const partsOf = ({ events }: ClientStream): unknown[] => events.filter(({ event }) => event === 'part').map(({ data }) => data)

/** Whether an event is the last part of a message. */
export const isEnd = ({ data }: StreamEvent): boolean => 'end' in (data as object)

/** Adds a handler whose generator yields 1, then waits for the abort of its signal. */
export function addEndless (sessions: Sessions): { readonly closed: Promise<unknown>, readonly count: () => number } {
  const closed = deferred<unknown>()
  let count = 0
  sessions.handle('endless', async function * (_session, _data, { signal }) {
    count++
    try {
      yield 1
      await new Promise(resolve => { signal.addEventListener('abort', resolve) })
    } finally {
      closed.resolve(signal.reason)
    }
  })
  return { closed: closed.promise, count: () => count }
}
