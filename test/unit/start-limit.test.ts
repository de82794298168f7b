import t from 'tap'
import { StartLimit } from '../../lib/store/redis/messages/start-limit.js'
import { nextEventLoopTick } from '../support/wait.js'

t.test('64 messages start per tick: first those of tickets that have been started, then the others in order', async t => {
  const limit = new StartLimit()
  const started: string[] = []
  const start = (name: string, isTicketStarted: boolean): void => {
    if (limit.tryStart()) started.push(name)
    else limit.wait(isTicketStarted).then(() => { started.push(name) }, t.error)
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
  // 22 more may start in this tick.
  for (const name of toNames('late', 0, 23)) start(name, false)
  t.strictSame(takeStarted(), toNames('late', 0, 22))
  await nextEventLoopTick()
  t.strictSame(takeStarted(), ['late22'])
})
