import t from 'tap'
import { MemoryLimit, type Shrinkable } from '../../lib/store/memory/memory-limit.js'

/** An item of several parts. Dropping the oldest removes the first part. */
class Parts implements Shrinkable {
  readonly parts: number[]
  readonly #limit: MemoryLimit

  constructor (limit: MemoryLimit, ...parts: number[]) {
    this.parts = parts
    this.#limit = limit
    limit.update(this)
    limit.enforce()
  }

  get weight (): number {
    return this.parts.reduce((sum, part) => sum + part, 0)
  }

  dropOldest (): void {
    this.parts.shift()
    this.#limit.update(this)
  }
}

t.test('reduces the largest items until all of them are within the limit', async t => {
  const limit = new MemoryLimit(1000)
  const small = new Parts(limit, 10, 10)
  const medium = new Parts(limit, 60, 60)
  const large = new Parts(limit, 400, 400)
  t.strictSame([small, medium, large].map(({ parts }) => parts), [[10, 10], [60, 60], [400, 400]])
  new Parts(limit, 100) // eslint-disable-line no-new
  t.strictSame([small, medium, large].map(({ parts }) => parts), [[10, 10], [60, 60], [400]])
  new Parts(limit, 2000) // eslint-disable-line no-new
  t.strictSame([small, medium, large].map(({ parts }) => parts), [[10, 10], [60, 60], [400]], 'an item that is too large does not affect the others')
})

t.test('reserved memory cannot be freed, and reduces the items', async t => {
  const limit = new MemoryLimit(1000)
  const item = new Parts(limit, 300, 300)
  t.equal(limit.reserve(500), true)
  t.strictSame(item.parts, [300])
  t.equal(limit.reserve(501), false)
  t.equal(limit.reserve(500), true)
  t.strictSame(item.parts, [], 'all items are dropped if that is necessary')
  t.equal(limit.hasRoom(1), false)
  limit.release(500)
  t.equal(limit.hasRoom(500), true)
  const next = new Parts(limit, 400)
  t.strictSame(next.parts, [400])
})
