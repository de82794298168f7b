import t from 'tap'
import type { RunListener } from '../../lib/index.js'
import { noop } from '../../lib/awaitable.js'
import type { LogPart, LogReplica } from '../../lib/store/redis/replica/log-replica.js'
import { Reducer } from '../../lib/store/redis/replica/reducer.js'
import { parseRunRecord, RunReplica } from '../../lib/store/redis/replica/run-replica.js'

// These tests call the reducer directly, because a real Redis cannot be made to publish exactly between a command and its reply.

const bounds = { entries: 10, bytes: 1e6, age: 60_000 }
const input = JSON.stringify({ id: 'run', name: 'a', keep: 1000 })
const running = [input, '0', null, null] as unknown as string[]
const finished = [input, '0', '{"status":"finished"}', '9']

/** Creates a reducer with a run, and a function that starts to follow the run. */
function createRun () {
  const record = parseRunRecord(running)
  if (record === undefined) throw new Error('no record')
  const run = new RunReplica(record, { isFenced: false })
  let losses = 0
  const reducer = new Reducer({ log: bounds, channelLog: bounds, runLog: bounds, compressionScope: () => undefined }, new Map(), new Map([['run', run]]), {
    onBroadcast: noop, onMissedPublication: () => { losses++ }, onIncomplete: noop, onRollback: noop, onTurn: noop, onResponse: noop, onQueuesChanged: noop, onSessionClosed: noop, onUnknownClose: noop, onNoStream: noop, onCursorRequest: noop, onStale: noop
  })
  let ends = 0
  const reader: RunListener = { onAppend: noop, onEnd: () => { ends++ }, onAbort: noop }
  const follow = (): LogReplica => {
    run.readers.add(reader)
    run.listeners.add(reader)
    reducer.runs.follow(run, 0)
    return run.replica as LogReplica
  }
  const read = (replica: LogReplica, last: number, record: string[], positions: readonly number[] = []): void => {
    const [after, through] = replica.missingRange
    reducer.applyRead([{ replica, after, through, epoch: 0, version: 0 }], [[String(last), '0', 'count', positions.map(position => [`${position}-0`, ['f', `data: ${position}\n\n`]]), 0, record]])
  }
  return { run, reducer, reader, follow, read, losses: () => losses, ends: () => ends }
}

t.test('the end of a run whose last entry is missing is a loss, and shows in what is read next', async t => {
  const { run, reducer, follow, read, losses, ends } = createRun()
  const replica = follow()
  read(replica, 0, running)
  reducer.applyNotification('run_entry', 'run 0 5  \ndata: 5\n\n')
  reducer.applyNotification('run_ended', 'run 7 9 {"status":"finished"}')
  t.match({ losses: losses(), ends: ends(), outcome: run.outcome }, { losses: 1, ends: 0, outcome: undefined })
  reducer.invalidate([], [run])
  reducer.applyNotification('run_ended', 'run 7 9 {"status":"finished"}')
  t.match({ losses: losses(), ends: ends(), canWrite: run.canWrite }, { losses: 1, ends: 0, canWrite: false })
  read(replica, 7, finished, [7])
  t.match({ ends: ends(), canWrite: run.canWrite, outcome: { status: 'finished' }, end: run.endPosition, length: replica.log.length }, { ends: 1, canWrite: true, end: 9, length: 2 })
})

t.test('notifications of runs that are not in use, entries of a run without readers, and unknown ones change nothing', async t => {
  const { run, reducer, follow, read } = createRun()
  reducer.applyNotification('run_ended', 'other 0 9 {"status":"finished"}')
  // As of a newer version of the package.
  reducer.applyNotification('run_moved', 'run 0 9 {"status":"finished"}')
  reducer.applyNotification('run_entry', 'run 0 5  \ndata: 5\n\n')
  const replica = follow()
  read(replica, 5, running, [5])
  t.match({ outcome: run.outcome, length: replica.log.length }, { outcome: undefined, length: 1 })
})

t.test('what was read for readers that have left is not applied', async t => {
  const { run, reducer, reader, follow, read } = createRun()
  const replica = follow()
  run.readers.delete(reader)
  t.strictSame(reducer.runs.prune(), ['run'])
  read(replica, 5, finished, [5])
  t.equal(run.outcome, undefined)
  const next = follow()
  t.not(next, replica)
  reducer.applyRead([{ unverified: run }], [finished as unknown as LogPart])
  t.equal(run.outcome, undefined, 'the reader gets the end with the log')
  read(next, 5, finished, [5])
  t.match(run, { outcome: { status: 'finished' }, isComplete: true, incompleteLogCount: 0 })
})

t.test('an end that arrives while the log is not complete is found after the last reader has left', async t => {
  const { run, reducer, reader, follow, read, ends } = createRun()
  let producerEnds = 0
  run.listeners.add({ onAppend: noop, onEnd: () => { producerEnds++ }, onAbort: noop })
  const replica = follow()
  read(replica, 5, running, [5])
  reducer.runs.invalidate(run)
  reducer.applyNotification('run_ended', 'run 5 9 {"status":"finished"}')
  for (const set of [run.readers, run.listeners]) set.delete(reader)
  t.strictSame(reducer.runs.prune(), ['run'])
  t.strictSame([...reducer.unverified], [run])
  reducer.applyRead([{ unverified: run }], [finished as unknown as LogPart])
  t.strictSame([producerEnds, ends()], [1, 0])
  follow()
  for (const set of [run.readers, run.listeners]) set.delete(reader)
  reducer.runs.prune()
  t.equal(reducer.unverified.size, 0, 'a run that has ended is not read again')
})

t.test('a run that Redis has lost ends after everything that its readers have received', async t => {
  const { run, reducer, follow, read, ends } = createRun()
  const replica = follow()
  read(replica, 5, running, [5])
  reducer.runs.invalidate(run)
  t.equal(run.canWrite, false)
  read(replica, 0, [null, null, null, null] as unknown as string[])
  t.match(run, { outcome: { status: 'lost' }, endPosition: 6, isRemoved: true, canWrite: true })
  t.match(replica.log, { trimmedPosition: 5, trimReason: 'store' })
  t.equal(ends(), 1)
})

t.test('what readers have not received of a run that is not kept any more is reported as trimmed by age', async t => {
  const { run, reducer, follow, read, ends } = createRun()
  const replica = follow()
  read(replica, 5, finished, [5])
  reducer.highestPosition = 20
  reducer.runs.invalidate(run)
  read(replica, 0, [null, null, null, null] as unknown as string[])
  t.match(run, { outcome: { status: 'finished' }, endPosition: 9, isRemoved: true })
  t.match(replica.log, { trimmedPosition: 8, trimReason: 'age' })
  t.equal(ends(), 1)
})
