import t from 'tap'
import { Turns } from '../../lib/store/redis/messages/turns.js'
import { nextEventLoopTick } from '../support/wait.js'

t.test('starts 64 messages per tick: first those of tickets that have been started, then the others in order', async t => {
  const turns = new Turns()
  const started: string[] = []
  const start = (name: string, isStarted: boolean): void => {
    const turn = turns.wait(isStarted)
    if (turn === undefined) started.push(name)
    else turn.then(() => { started.push(name) }, t.error)
  }
  const takeStarted = (): string[] => started.splice(0)
  const toNames = (prefix: string, from: number, to: number): string[] => Array.from({ length: to - from }, (_, index) => `${prefix}${from + index}`)
  for (const name of toNames('new', 0, 100)) start(name, false)
  t.strictSame(takeStarted(), toNames('new', 0, 64))
  for (const name of toNames('started', 0, 70)) start(name, true)
  t.strictSame(takeStarted(), [])
  await nextEventLoopTick()
  t.strictSame(takeStarted(), toNames('started', 0, 64))
  await nextEventLoopTick()
  t.strictSame(takeStarted(), [...toNames('started', 64, 70), ...toNames('new', 64, 100)])
  // 22 of this tick are left.
  for (const name of toNames('late', 0, 23)) start(name, false)
  t.strictSame(takeStarted(), toNames('late', 0, 22))
  // One waits that was not started, so a started one comes first, as soon as there is room.
  start('started', true)
  await nextEventLoopTick()
  t.strictSame(takeStarted(), ['started', 'late22'])
})

t.test('a message of a started ticket does not wait behind tickets that were not started', async t => {
  const turns = new Turns()
  for (let n = 0; n < 64; n++) t.equal(turns.wait(false), undefined)
  const waiting = turns.wait(false)
  t.ok(waiting)
  await waiting
  t.equal(turns.wait(true), undefined)
  t.equal(turns.wait(false), undefined)
})
