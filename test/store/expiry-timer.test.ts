import { mock } from 'node:test'
import t from 'tap'
import { serve } from '../support/server.js'
import { streamsOpen, wire } from '../support/wire.js'
import { until } from '../support/wait.js'

t.test('uses one expiry timer for any number of sessions that expire one after the other', async t => {
  const { sessions, port } = await serve(t, { resumeTimeout: 50 })
  const clients = Array.from({ length: 60 }, () => wire(t, port))
  await streamsOpen(sessions, 60)
  const { mock: timers } = mock.method(globalThis, 'setTimeout')
  t.teardown(() => { mock.restoreAll() })
  let expire: unknown
  for (const [index, { socket }] of clients.entries()) {
    socket.destroy()
    await until(() => sessions.stats().streams < 60 - index, 'the disconnect')
    expire ??= timers.calls.find(({ arguments: [, delay] }) => delay === 50)?.arguments[0]
  }
  await until(() => sessions.size === 0, 'all sessions to expire')
  const armed = timers.calls.filter(({ arguments: [callback] }) => callback === expire).length
  // Once per session, and again if a timer fires slightly early.
  t.ok(armed >= 2 && armed <= 130, `the timer was set ${armed} times for 60 sessions`)
})
