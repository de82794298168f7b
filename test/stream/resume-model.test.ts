import fc from 'fast-check'
import t from 'tap'
import { skewClock } from '../support/clock.js'
import { chooseSeed } from '../support/random.js'
import { counts, SessionModel, type Step } from './support/session-model.js'

const kinds: Array<[weight: number, kind: Step['kind']]> = [
  [6, 'send'], [8, 'publish'], [4, 'broadcast'], [4, 'join'], [3, 'leave'], [6, 'connect'], [3, 'drop'], [4, 'drain'], [6, 'tick'], [1, 'expire'], [1, 'close']
]

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.oneof(...kinds.map(([weight, kind]) => ({ weight, arbitrary: fc.constant(kind) }))),
  client: fc.nat(2),
  channel: fc.nat(1),
  except: fc.nat(5),
  cursor: fc.oneof(fc.constantFrom('last', 'last', 'written', 'ahead'), fc.double({ min: 0, max: 0.999, noNaN: true })),
  stalls: fc.constantFrom(false, false, true),
  latest: fc.constantFrom(false, false, true, 'a'),
  isLarge: fc.constantFrom(false, false, false, false, false, true)
})

// A small message has about 10 bytes, a large one 40,000: more than one of these needs more than one write.
const bounds = fc.record({
  entries: fc.constantFrom(1, 2, 3, 5, 40),
  bytes: fc.constantFrom(35, 100, 90_000, 400_000)
})

const steps = fc.array(step, { maxLength: 80, size: 'max' })

t.test('delivers what the model predicts for any sequence of sends, trims, faults, joins, leaves and resumes', async t => {
  const skew = skewClock(t)
  await fc.assert(fc.asyncProperty(bounds, steps, (bounds, steps) => SessionModel.run(bounds, skew, steps)), { seed: chooseSeed(t), numRuns: 2000 })
  t.comment(JSON.stringify(counts))
  for (const [what, count] of Object.entries(counts)) t.ok(count > 200, `${what}: more than 200 occurred`)
})
