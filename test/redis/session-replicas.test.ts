import t from 'tap'
import type { SessionListener } from '../../lib/index.js'
import { noop } from '../../lib/awaitable.js'
import type { Inbox } from '../../lib/store/redis/replica/inbox.js'
import { Loader } from '../../lib/store/redis/replica/loader.js'
import { Reducer } from '../../lib/store/redis/replica/reducer.js'
import { parseRecord, SessionReplica, type SessionRecord } from '../../lib/store/redis/replica/session-replica.js'
import type { LogPart } from '../../lib/store/redis/replica/log-replica.js'
import { deferred, nextEventLoopTick } from '../support/wait.js'

// These tests call the reducer directly, because a real Redis cannot be made to publish exactly between a command and its reply.

const bounds = { entries: 10, bytes: 1e6, age: 60_000 }
const record = (version: number, ...fields: string[]): string[] => ['startPosition', '0', 'cursor', '0', 'version', String(version), 'epoch', '7', 'owner', 'node', ...fields]
const closed = ['closeReason', 'bye', 'broadcastEndPosition', '5']
const part = (fields: string[], hasMore = 0): LogPart => ['5', '0', 'count', [], hasMore, fields]

/** Creates a reducer with a session. `stale` contains the sessions whose records have to be read. */
function createSession () {
  const state = new SessionReplica('a', undefined, 0, { isFenced: false, mayMissBroadcasts: false })
  let ends = 0
  const ignored: Omit<SessionListener, 'onEnd'> = { cursor: 0, onAppend: noop, onReplaced: noop, onLost: noop, onAbort: noop }
  state.listener = { ...ignored, onEnd: () => { ends++ } }
  const stale: SessionReplica[] = []
  const reducer = new Reducer({ log: bounds, channelLog: bounds, runLog: bounds, compressionScope: () => undefined }, new Map([['a', state]]), new Map(), {
    onBroadcast: noop, onMissedPublication: noop, onIncomplete: noop, onRollback: noop, onTurn: noop, onResponse: noop, onQueuesChanged: noop, onSessionClosed: noop, onUnknownClose: noop, onNoStream: noop, onCursorRequest: noop, onStale: state => { stale.push(state) }
  })
  reducer.nodeId = 'node'
  return { state, reducer, stale, ends: () => ends }
}

t.test('a close that arrives while the log is not complete is found after the stream has ended', async t => {
  const { state, reducer, stale } = createSession()
  reducer.applyAcquire(state, 0, part(record(1)))
  reducer.invalidate([], [])
  reducer.applyNotification('closed', 'a 5 bye')
  // A record that was read for another reason contains the close, too.
  t.equal(state.apply(parseRecord(record(2, ...closed)) as SessionRecord, 'node'), false)
  t.equal(state.closeReason, undefined)
  reducer.detach(state)
  t.strictSame([...reducer.unverified], [state])
  reducer.applyRead([{ unverified: state }], ['2'])
  t.strictSame(stale, [state])
  t.equal(state.apply(parseRecord(record(2, ...closed)) as SessionRecord, 'node'), true)
})

t.test('a session whose stream ends is not read again if nothing of it can have been missed, or if it is closed', async t => {
  const { state, reducer } = createSession()
  reducer.detach(state)
  reducer.applyAcquire(state, 0, part(record(1)))
  reducer.detach(state)
  reducer.applyAcquire(state, 0, part(record(1)))
  reducer.invalidate([], [])
  reducer.removeSession(state)
  t.equal(reducer.unverified.size, 0)
  t.equal(state.closeReason, 'expired')
})

t.test('a session that is closed when its stream is acquired ends at once, also if the stream is replaced before its log is complete', async t => {
  const { state, reducer, ends } = createSession()
  reducer.applyAcquire(state, 0, part(record(2, ...closed), 1))
  t.match({ closeReason: state.closeReason, ends: ends() }, { closeReason: 'bye', ends: 1 })
  reducer.applyNotification('replaced', 'a 8 1')
  t.equal(reducer.unverified.size, 0)
})

t.test('a session that was read since a rollback is not lost', async t => {
  for (const [isRead, closeReason] of [[false, 'lost'], [true, 'expired']] as const) {
    const { state, reducer } = createSession()
    reducer.rollback(9)
    if (isRead) state.apply(parseRecord(record(1)) as SessionRecord, 'node')
    reducer.removeSession(state)
    t.equal(state.closeReason, closeReason)
  }
})

t.test('a stream that ends while the channels of other streams are subscribed is not read', async t => {
  const { state, reducer } = createSession()
  reducer.applyAcquire(state, 0, part(record(1, 'm:room', '0')))
  reducer.invalidate([], [])
  const { promise: subscribed, resolve: confirm } = deferred()
  const reads: unknown[] = []
  const inbox = {
    execute: async (_command: string, args: readonly unknown[]) => {
      reads.push(...args.filter((_, index) => index % 7 < 2))
      reducer.incomplete.clear()
      reducer.unverified.clear()
    }
  } as unknown as Inbox
  new Loader(reducer, inbox, { isReady: true, add: async () => { await subscribed } }, name => name).start()
  await nextEventLoopTick()
  reducer.detach(state)
  confirm()
  await nextEventLoopTick()
  t.strictSame(reads, ['broadcasts', '', 'channel', 'room', 'unverified_session', 'a'])
})

t.test('channels that a session left during an earlier stream are not read before its log is complete', async t => {
  const { state, reducer } = createSession()
  reducer.applyAcquire(state, 0, part(record(1, 'l:3:room', '0')))
  t.strictSame(state.leftRanges, [{ channel: 'room', from: 0, to: 3 }])
  reducer.detach(state)
  reducer.prune()
  reducer.applyAcquire(state, 0, part(record(1), 1))
  reducer.releaseLeftChannels()
  t.equal(state.leftRanges.length, 0)
})
