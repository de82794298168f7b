import fc from 'fast-check'
import t from 'tap'
import { chooseSeed } from '../support/random.js'
import { testEachStore } from '../support/stores.js'
import { StoreModel, type Counts, type StoreStep } from './support/store-model.js'

const kinds: Array<[weight: number, kind: StoreStep['kind']]> = [
  [6, 'send'], [8, 'publish'], [4, 'broadcast'], [5, 'join'], [3, 'leave'], [7, 'connect'], [3, 'drop'], [1, 'update'], [1, 'close']
]

const steps = fc.array(fc.record<StoreStep>({
  kind: fc.oneof(...kinds.map(([weight, kind]) => ({ weight, arbitrary: fc.constant(kind) }))),
  client: fc.nat(2),
  channel: fc.nat(1),
  except: fc.nat(5),
  node: fc.nat(1),
  history: fc.nat(5),
  latest: fc.constantFrom(false, false, true, 'a'),
  cursor: fc.oneof(fc.constant(1), fc.double({ min: 0, max: 0.999, noNaN: true }))
}), { minLength: 20, maxLength: 60, size: 'max' })

testEachStore(t, 'delivers what the model predicts for any sequence of sends, trims, joins, leaves and resumes on any node', async (t, store) => {
  const counts: Counts = { messages: 0, gaps: 0, replays: 0, moves: 0, history: 0, replaced: 0 }
  const runs = store.isShared ? 30 : 150
  for (const entries of [2, 1000]) {
    const options = { log: { entries }, channelLog: { entries } }
    const nodes = [await store.addNode(options), await store.addNode(options)]
    // A missing event fails only by timeout, so shrinking a failure would take minutes.
    await fc.assert(fc.asyncProperty(steps, steps => new StoreModel(nodes, entries, counts).run(steps)), { seed: chooseSeed(t), numRuns: runs, endOnFailure: true })
    // The nodes of a namespace must have the same options.
    for (const node of nodes) await node.close()
  }
  t.comment(JSON.stringify(counts))
  const { moves, ...rest } = counts
  for (const [what, count] of Object.entries(rest)) t.ok(count > 0, `${what} occurred`)
  if (store.isShared) t.ok(moves > runs, 'sessions moved between nodes')
})
