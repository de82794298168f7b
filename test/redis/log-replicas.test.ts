import t from 'tap'
import { Reducer, type ReducerListener } from '../../lib/store/redis/replica/reducer.js'
import type { LogPart } from '../../lib/store/redis/replica/log-replica.js'
import { flushScheduler, type Flushable } from '../../lib/stream/flush-scheduler.js'
import { nextEventLoopTurn } from '../support/wait.js'

const ignore = (): void => {}

// These tests call the reducer directly, because a real Redis cannot be made to publish exactly between a read and its flush.
function createReducer (listener: Partial<ReducerListener>): Reducer {
  const bounds = { entries: 3, bytes: 1e6, age: Infinity }
  return new Reducer({ log: bounds, channelLog: bounds }, { get: () => undefined }, {
    onBroadcast: ignore, onLoss: ignore, onIncomplete: ignore, onRollback: ignore, onQueueChange: ignore, onProgressRequest: ignore, onStale: ignore, ...listener
  })
}

/** Applies the reply to a read of the log of broadcasts. */
function readBroadcasts (reducer: Reducer, positions: readonly number[]): void {
  const { broadcasts: replica } = reducer
  const [after, through] = replica.missingRange
  const value: LogPart = [String(positions.at(-1) ?? 0), '0', 'count', positions.map(position => [`${position}-0`, ['f', `data: ${position}\n\n`]]), 0]
  reducer.applyRead([{ replica, after, through, epoch: 0, version: 0 }], [value])
}

t.test('flushes entries that were read before later publications trim them', async t => {
  const written: number[] = []
  const writer: Flushable = {
    flush: () => {
      for (let next = log.nextPosition(0); next !== Infinity; next = log.nextPosition(next)) if (!written.includes(next)) written.push(next)
    }
  }
  const reducer = createReducer({ onBroadcast: () => { flushScheduler.schedule(writer) } })
  const { log } = reducer.broadcasts
  const publish = (position: number): void => { reducer.publication(`entry ${position - 1} ${position}\ndata: ${position}\n\n`) }
  readBroadcasts(reducer, [])
  publish(1)
  await nextEventLoopTurn()
  t.strictSame(written, [1])
  reducer.invalidate([])
  readBroadcasts(reducer, [2, 3, 4])
  for (const position of [5, 6, 7]) publish(position)
  await nextEventLoopTurn()
  t.strictSame(written, [1, 2, 3, 4, 5, 6, 7])
})
