import t from 'tap'
import { ActiveItems } from '../../lib/active-items.js'
import { chooseSeed, createRandom } from '../support/random.js'

t.test('contains what was added and not removed, and uses slots again', async t => {
  const random = createRandom(chooseSeed(t))
  const items = new ActiveItems<{ id: number }>()
  const slots = new Map<{ id: number }, number>()
  let maxSize = 0
  let maxSlot = 0
  for (let id = 0; id < 200; id++) {
    const item = { id }
    const slot = items.add(item)
    slots.set(item, slot)
    maxSize = Math.max(maxSize, slots.size)
    maxSlot = Math.max(maxSlot, slot)
    for (const [each, slot] of [...slots]) {
      if (random() > 0.2) continue
      items.remove(slot)
      slots.delete(each)
    }
    t.equal(items.size, slots.size)
    t.strictSame(items.values().map(({ id }) => id).sort(), [...slots.keys()].map(({ id }) => id).sort())
  }
  t.equal(maxSlot, maxSize - 1)
})
