import t from 'tap'
import { needsProgram } from '../support/needs-program.js'
import { serve } from '../support/server.js'
import { openStream } from '../support/http-client.js'
import { block } from './docs.js'
import { runCommand } from './docs-run.js'

t.test('a POST that is repeated with its key is handled once', needsProgram('curl'), async t => {
  const { sessions, url } = await serve(t, { prefix: '/chat' })
  let runs = 0
  sessions.handle('say', (_session, data) => ({ run: ++runs, data }))
  const { sessionId } = await openStream(t, url, { path: '/chat/downward' })
  const command = block('docs/reliability.md', 'repeat').replace('http://127.0.0.1:3000', url)
  for (let i = 0; i < 2; i++) await runCommand(t, command, { SESSION_ID: sessionId }).waitForOutput(/\{"run":1,"data":\{"text":"hello"\}\}/)
  t.equal(runs, 1)
})
