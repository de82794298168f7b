import { spawnSync } from 'node:child_process'
import t from 'tap'
import { checkClient } from '../conformance/check-client.js'
import { checkServer } from '../conformance/check-server.js'
import { matchList } from '../support/match-list.js'
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

t.test('a server without a handler for echo is refused at once', async t => {
  const { url } = await serve(t)
  const report = await checkServer(t, url)
  t.notOk(report.passed)
  matchList(t, report.problems, [/The message "echo" got the status 404 FST_SSE_EVENT_UNKNOWN/])
})

t.test('a command that exits at once does not pass, and its output is shown', async t => {
  const report = await checkClient(t, { command: 'echo misspelled >&2; exit 7', seed: 1 })
  t.notOk(report.passed)
  matchList(t, report.problems, [/exited with 7, before the first GET:\nmisspelled/])
})

t.test('an invalid seed is refused', t => {
  for (const seed of ['x', '1.5']) {
    const { status, stderr } = spawnSync(process.execPath, ['--import', './test/support/strip-types.js', 'test/conformance/command.ts', '--seed', seed, 'true'], { encoding: 'utf8' })
    t.equal(status, 2)
    t.match(stderr, /--seed <whole number>/)
  }
  t.end()
})
