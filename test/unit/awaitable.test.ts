import t from 'tap'
import { toPromise, andThen } from '../../lib/awaitable.js'

t.test('what is there, or was done at once, is gone on with at once, and what is promised when it has come', async t => {
  const heard: unknown[] = []
  const hear = (value: unknown): void => { heard.push(value) }
  andThen(1, hear)
  andThen(toPromise(() => {}), hear)
  t.strictSame(heard, [1, undefined])
  await andThen(toPromise(() => 2), hear)
  await andThen(toPromise(() => Promise.resolve()), hear)
  t.strictSame(heard, [1, undefined, 2, undefined])
  t.equal(await toPromise(() => {}), undefined)
})
