import t from 'tap'
import { toPromise, andThen } from '../../lib/awaitable.js'

t.test('continues synchronously after a synchronous value, and otherwise when the promise resolves', async t => {
  const received: unknown[] = []
  const receive = (value: unknown): void => { received.push(value) }
  andThen(1, receive)
  andThen(toPromise(() => {}), receive)
  t.strictSame(received, [1, undefined])
  await andThen(toPromise(() => 2), receive)
  await andThen(toPromise(() => Promise.resolve()), receive)
  t.strictSame(received, [1, undefined, 2, undefined])
  t.equal(await toPromise(() => {}), undefined)
})
