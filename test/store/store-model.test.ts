import fc from 'fast-check'
import t from 'tap'
import { seedOf } from '../support/random.js'
import { SharedWorld, type Seen, type SharedStep } from './support/cluster-model.js'
import { eachStore } from '../support/stores.js'

const kinds: Array<[weight: number, kind: SharedStep['kind']]> = [
  [6, 'send'], [8, 'publish'], [4, 'broadcast'], [5, 'join'], [3, 'leave'], [7, 'connect'], [3, 'drop'], [1, 'update'], [1, 'close']
]

const steps = fc.array(fc.record<SharedStep>({
  kind: fc.oneof(...kinds.map(([weight, kind]) => ({ weight, arbitrary: fc.constant(kind) }))),
  client: fc.nat(2),
  channel: fc.nat(1),
  except: fc.nat(5),
  process: fc.nat(1),
  cursor: fc.oneof(fc.constant(1), fc.double({ min: 0, max: 0.999, noNaN: true }))
}), { minLength: 20, maxLength: 60, size: 'max' })

eachStore(t, 'whatever is sent, trimmed, joined, left and resumed, on whichever process, what comes is what the model says', async (t, fleet) => {
  const seen: Seen = { messages: 0, gaps: 0, replays: 0, moves: 0 }
  const runs = fleet.shared ? 30 : 150
  for (const entries of [2, 1000]) {
    const options = { log: { entries }, channelLog: { entries } }
    const processes = [await fleet.process(options), await fleet.process(options)]
    // What does not come is waited for: to shrink a failure would take minutes.
    await fc.assert(fc.asyncProperty(steps, steps => new SharedWorld(processes, entries, seen).run(steps)), { seed: seedOf(t), numRuns: runs, endOnFailure: true })
  }
  t.comment(JSON.stringify(seen))
  const { moves, ...rest } = seen
  for (const [what, count] of Object.entries(rest)) t.ok(count > runs / 5, `${what} were seen`)
  if (fleet.shared) t.ok(moves > runs, 'sessions moved from process to process')
})
