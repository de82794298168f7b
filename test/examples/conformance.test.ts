import t from 'tap'
import { checkServer } from '../conformance/check-server.js'
import { serve } from '../support/server.js'

t.test('the plugin meets all requirements of the protocol that the conformance tool checks', async t => {
  const { sessions, url } = await serve(t, { heartbeatInterval: 200 })
  sessions.handle('echo', async (session, data) => {
    await session.emit('echo', data)
    return data
  })
  const report = await checkServer(t, url)
  t.ok(report.passed, report.toString())
})

t.test('a server that handles repeats again does not pass', async t => {
  const { sessions, url } = await serve(t, { heartbeatInterval: 200, maxIdempotencyKeys: 0 })
  sessions.handle('echo', async (session, data) => {
    await session.emit('echo', data)
    return data
  })
  const report = await checkServer(t, url)
  t.notOk(report.passed)
  t.match(report.toString(), /FAIL +MUST +handles a repeat with the same key once/)
})
