import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { RunOver, SessionOver } from '../../lib/errors.js'
import { pump } from '../../lib/stream/pump.js'
import { nextEventLoopTick } from '../support/wait.js'

const reason = new RunOver()

/** Pumps until the signal aborts, while the iterator is used. Resolves with the late errors. */
async function collectLateErrors (next: (signal: AbortSignal) => Promise<IteratorResult<unknown>>, end?: () => Promise<IteratorResult<unknown>>, write: (signal: AbortSignal) => Promise<void> | undefined = () => undefined): Promise<unknown[]> {
  const errors: unknown[] = []
  const controller = new AbortController()
  const { signal } = controller
  const iterator = { next: () => next(signal), ...end !== undefined && { return: end } }
  const pumping = pump({ [Symbol.asyncIterator]: () => iterator }, signal, { write: () => write(signal), waitForDrain: () => {}, onLateError: error => { errors.push(error) } })
  // The first item arrives.
  await nextEventLoopTick()
  controller.abort(reason)
  await t.rejects(pumping, reason)
  // `return` is called in a microtask, and an unhandled rejection is reported two ticks later.
  for (let n = 0; n < 4; n++) await nextEventLoopTick()
  return errors
}

const never = (): Promise<never> => new Promise(() => {})
const failWith = (error: unknown) => (): Promise<never> => Promise.reject(error)
/** Returns a `next` that fails when the signal aborts. */
const failAtAbort = (error: unknown) => (signal: AbortSignal): Promise<never> => new Promise((_resolve, reject) => { signal.addEventListener('abort', () => { reject(error) }) })

t.test('reports an error of the iterator after the abort', async t => {
  const error = new Error('late')
  t.strictSame(await collectLateErrors(failAtAbort(error)), [error])
  t.strictSame(await collectLateErrors(failAtAbort(null)), [null])
  t.strictSame(await collectLateErrors(never, failWith(error)), [error])
  t.strictSame(await collectLateErrors(never, () => { throw error }), [error])
})

t.test('reports an error whose properties cannot be read', async t => {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  for (const error of [{ get code () { throw new Error('from the getter') } }, proxy]) {
    for (const errors of [await collectLateErrors(failAtAbort(error)), await collectLateErrors(never, failWith(error))]) {
      t.equal(errors.length, 1)
      t.equal(errors[0] === error, true)
    }
  }
})

t.test('does not report an error that only says that something has ended', async t => {
  for (const error of [reason, new RunOver(), new SessionOver()]) {
    t.strictSame(await collectLateErrors(failAtAbort(error)), [])
    t.strictSame(await collectLateErrors(never, failWith(error)), [])
  }
  t.strictSame(await collectLateErrors(signal => delay(2 ** 30, { done: true, value: 0 }, { signal })), [], 'an AbortError of Node')
})

t.test('does not report that an item could not be written after the abort', async t => {
  t.strictSame(await collectLateErrors(async () => ({ done: false, value: 1 }), undefined, failAtAbort(new Error('write'))), [])
})
