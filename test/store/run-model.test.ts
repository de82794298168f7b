import fc from 'fast-check'
import t from 'tap'
import type { RunStore, StoreFactory } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { chooseSeed } from '../support/random.js'
import { testEachStoreFactory } from '../support/stores.js'
import { RunModel, type RunCounts, type RunStep } from './support/run-model.js'

const MAX_RUNS = 2

const kinds: Array<[weight: number, kind: RunStep['kind']]> = [[5, 'start'], [2, 'find'], [16, 'append'], [2, 'end'], [7, 'follow'], [4, 'unfollow'], [1, 'disconnect']]

const steps = fc.array(fc.record<RunStep>({
  kind: fc.oneof(...kinds.map(([weight, kind]) => ({ weight, arbitrary: fc.constant(kind) }))),
  name: fc.nat(1),
  node: fc.nat(1),
  reader: fc.nat(3),
  reuse: fc.constantFrom('running', 'kept', 'never'),
  from: fc.oneof(fc.constant('now' as const), fc.constant(0), fc.nat(6))
}), { minLength: 20, maxLength: 60, size: 'max' })

testEachStoreFactory(t, 'readers of runs receive what the model predicts for any sequence of steps on any node', async (t, connect, servers) => {
  const counts: RunCounts = { entries: 0, gaps: 0, ends: 0, removals: 0 }
  const histories = servers.length === 0 ? 150 : 30
  // The limit applies to each server, so with several the model does not reach it.
  const maxRuns = servers.length > 1 ? 1000 : MAX_RUNS
  const sendToAll = async (...command: [string, ...string[]]): Promise<unknown> => await Promise.all(servers.map(server => server.sendCommand(...command)))
  // The histories share the connections, because opening them takes longer than a history.
  const connections = await Promise.all(servers.length === 0 ? [connect()] : [connect(), connect()])
  for (const entries of [2, 1000]) {
    const open = async (connection: StoreFactory) => await connection(resolveOptions({ runLog: { entries }, maxRuns, closeTimeout: 100 }, 0), { onBroadcast: () => {}, onExpire: async () => {}, onJoin: async () => {}, onLeave: async () => {} })
    await fc.assert(fc.asyncProperty(steps, async steps => {
      // Runs are kept, so each history needs an empty store.
      await sendToAll('FLUSHALL')
      const stores = await Promise.all(connections.map(open))
      try {
        const runs = stores.map(store => store.runs as RunStore)
        await new RunModel(runs, entries, maxRuns, counts, async () => await sendToAll('CLIENT', 'KILL', 'TYPE', 'pubsub')).run(steps)
      } finally {
        for (const store of stores) await store.close('shutdown')
      }
    }), { seed: chooseSeed(t), numRuns: histories, endOnFailure: true })
  }
  t.comment(JSON.stringify(counts))
  for (const [what, count] of Object.entries(counts)) if (what !== 'removals' || maxRuns === MAX_RUNS) t.ok(count > 0, `${what} occurred`)
})
