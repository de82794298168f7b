import t from 'tap'
import { Reducer, type ReducerListener } from '../../lib/store/redis/replica/reducer.js'
import { LogReplica, type LogPart } from '../../lib/store/redis/replica/log-replica.js'
import { SessionReplica } from '../../lib/store/redis/replica/session-replica.js'
import { flushScheduler, type Flushable } from '../../lib/stream/flush-scheduler.js'
import { nextEventLoopTick } from '../support/wait.js'

const ignore = (): void => {}

// These tests call the reducer directly, because a real Redis cannot be made to publish exactly between a read and its flush.
const bounds = { entries: 3, bytes: 1e6, age: Infinity }

function createReducer (listener: Partial<ReducerListener>, known = new Map<string, SessionReplica>()): Reducer {
  return new Reducer({ log: bounds, channelLog: bounds, runLog: bounds, compressionScope: () => undefined }, known, new Map(), {
    onBroadcast: ignore, onMissedPublication: ignore, onIncomplete: ignore, onRollback: ignore, onTurn: ignore, onResponse: ignore, onQueuesChanged: ignore, onSessionClosed: ignore, onUnknownClose: ignore, onNoStream: ignore, onCursorRequest: ignore, onStale: ignore, ...listener
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
  const publish = (position: number): void => { reducer.applyPublication(`entry ${position - 1} ${position}  \ndata: ${position}\n\n`) }
  readBroadcasts(reducer, [])
  publish(1)
  await nextEventLoopTick()
  t.strictSame(written, [1])
  reducer.invalidate([], [])
  readBroadcasts(reducer, [2, 3, 4])
  for (const position of [5, 6, 7]) publish(position)
  await nextEventLoopTick()
  t.strictSame(written, [1, 2, 3, 4, 5, 6, 7])
})

/** Creates a reducer with a session that has a stream, and the record of the session with more fields. */
function attachSession () {
  const state = new SessionReplica('a', undefined, 0, { isFenced: false, mayMissBroadcasts: false })
  const reducer = createReducer({}, new Map([['a', state]]))
  reducer.nodeId = 'node'
  const record = (version: number, ...fields: string[]): string[] => ['startPosition', '0', 'cursor', '0', 'version', `${version}`, 'epoch', '1', 'owner', 'node', ...fields]
  reducer.applyAcquire(state, 0, ['0', '0', 'count', [], 0, record(1)])
  return { state, reducer, record }
}

t.test('a message about a channel that the session is not in changes nothing but the version', async t => {
  const { state, reducer } = attachSession()
  reducer.applyNotification('left', 'a 2 5 room')
  t.match(state, { version: 2, leftRanges: { length: 0 }, ranges: { length: 2 } })
})

t.test('publications of an unknown kind, as of a newer version of the package, change nothing', async t => {
  const { state, reducer } = attachSession()
  reducer.applyNotification('moved', 'a 2 5 room')
  t.match(state, { streamVersion: 1, version: 1 })
  const other = createReducer({ onQueuesChanged: () => t.fail('no queue has changed'), onStale: () => t.fail('no session has changed') })
  other.applyPublication('node_moved node')
})

t.test('a publication of an entry that cannot be parsed counts as missed', async t => {
  for (const text of ['entry 1', 'entry one 2  \ndata: 2\n\n', 'entry 1 two  \ndata: 2\n\n']) {
    let missed = 0
    const reducer = createReducer({ onMissedPublication: () => { missed++ } })
    readBroadcasts(reducer, [1])
    reducer.applyPublication(text)
    t.match(reducer, { position: 0, highestPosition: 0, broadcasts: { log: { lastPosition: 1 } } })
    t.equal(missed, 1, text)
  }
})

t.test('the close of a session whose log is read again shows in what is read', async t => {
  const { state, reducer, record } = attachSession()
  const replica = state.ownLog as NonNullable<typeof state.ownLog>
  reducer.invalidate([], [])
  reducer.applyNotification('closed', 'a 5 done')
  t.equal(state.closeReason, undefined)
  reducer.applyRead([{ replica, after: 0, through: Infinity, epoch: 1, version: 1 }], [['0', '0', 'count', [], 0, record(2, 'closeReason', 'done', 'broadcastEndPosition', '5')]])
  t.match(state, { closeReason: 'done', broadcastEndPosition: 5 })
})

t.test('entries that were lost while they were read are not added', async t => {
  const replica = new LogReplica('channel', 'room', bounds)
  replica.log.markTrimmed(5, 'store')
  replica.add(['6', '0', 'count', [['3-0', ['f', 'data: 3']], ['6-0', ['f', 'data: 6']]], 0], 0, 0)
  t.match(replica.log, { length: 1, lastPosition: 6 })
})

t.test('what arrives for a channel or a session that is not in use any more is ignored', t => {
  const { state, reducer } = attachSession()
  reducer.applyChannelPublication('left', '0 1 2  \ndata: 2\n\n')
  reducer.applyNotification('closed', 'other 5 done')
  t.equal(reducer.channels.size, 0)
  t.equal(reducer.position, 0)
  // The session has got a stream here while its version was read.
  reducer.unverified.add(state)
  reducer.applyRead([{ unverified: state }], ['gone'])
  t.equal(state.closeReason, undefined)
  t.equal(reducer.unverified.size, 0)
  t.end()
})
