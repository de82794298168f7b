import t from 'tap'
import { begin, chain } from '../../lib/promises.js'

t.test('what is there, or was done at once, is gone on with at once, and what is promised when it has come', async t => {
  const heard: unknown[] = []
  const hear = (value: unknown): void => { heard.push(value) }
  chain(1, hear)
  chain(begin(() => {}), hear)
  t.strictSame(heard, [1, undefined])
  await chain(begin(() => 2), hear)
  await chain(begin(() => Promise.resolve()), hear)
  t.strictSame(heard, [1, undefined, 2, undefined])
  t.equal(await begin(() => {}), undefined)
})
