import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { watch } from '../support/child.js'
import { freePort } from '../support/free-port.js'
import { needsProgram } from '../support/program.js'
import { take } from '../support/readme.js'
import { serve } from '../support/server.js'
import { openStream, post } from '../support/stream.js'
import { until } from '../support/wait.js'

t.test('behind nginx, configured as the README says, events arrive at once and a lost stream resumes', needsProgram('nginx'), async t => {
  const { url, sessions } = await serve(t, { prefix: '/chat' })
  const folder = mkdtempSync(join(tmpdir(), 'nginx-'))
  t.teardown(() => { rmSync(folder, { recursive: true }) })
  const port = await freePort()
  const location = take('nginx').replace('http://127.0.0.1:3000', url)
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${folder}/${name};`).join(' ')
  const file = join(folder, 'nginx.conf')
  writeFileSync(file, `
    daemon off; pid ${folder}/pid; error_log stderr;
    events {}
    http { access_log off; ${paths} server { listen 127.0.0.1:${port}; ${location} } }
  `)
  const start = () => watch(t, spawn('nginx', ['-p', folder, '-c', file], { detached: true }), 'nginx')
  const connectable = () => until(() => fetch(`http://127.0.0.1:${port}`).then(() => true, () => false), 'nginx to listen')
  let nginx = start()
  await connectable()

  const through = `http://127.0.0.1:${port}`
  const options = { path: '/chat/downward' }
  const stream = await openStream(t, through, options)
  t.equal((await post(through, stream.sessionId, { text: 'hi' }, { path: '/chat/upward' })).status, 201)
  const { id = '' } = await stream.waitFor(({ event }) => event === 'message')

  await nginx.kill()
  await stream.ended
  await (await sessions.find(stream.sessionId))?.send('meanwhile')
  nginx = start()
  await connectable()
  const resumed = await openStream(t, through, { ...options, headers: { 'last-event-id': id } })
  await resumed.waitFor(({ data }) => data === 'meanwhile')
  t.strictSame(resumed.events.map(({ event }) => event), ['welcome', 'message'])
})
