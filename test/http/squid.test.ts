import { spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { trackProcess } from '../support/child-process.js'
import { findFreePort } from '../support/free-port.js'
import { openStream } from '../support/http-client.js'
import { needsProgram } from '../support/needs-program.js'
import { serve } from '../support/server.js'
import { waitUntil } from '../support/wait.js'

t.test('a cache that joins simultaneous requests gives each client its own session', needsProgram('squid'), async t => {
  const { url } = await serve(t)
  const port = await findFreePort()
  const folder = mkdtempSync(join(tmpdir(), 'squid-'))
  // Squid changes to an unprivileged user.
  chmodSync(folder, 0o777)
  t.teardown(() => { rmSync(folder, { recursive: true }) })
  writeFileSync(join(folder, 'squid.conf'), `
    http_port 127.0.0.1:${port} accel defaultsite=app no-vhost
    cache_peer 127.0.0.1 parent ${new URL(url).port} 0 no-query no-digest originserver name=app
    http_access allow all
    collapsed_forwarding on
    access_log none
    cache_log /dev/stderr
    pid_filename ${folder}/pid
    coredump_dir ${folder}
    visible_hostname localhost
    pinger_enable off
  `)
  const squid = trackProcess(t, spawn('squid', ['-N', '-f', join(folder, 'squid.conf')], { detached: true }), 'squid')
  const squidUrl = `http://127.0.0.1:${port}`
  // Squid logs that it accepts connections before it does.
  const isListening = (): Promise<boolean> => fetch(squidUrl, { method: 'HEAD', signal: AbortSignal.timeout(5000) }).then(() => true, () => false)
  await waitUntil(isListening, 'squid to listen').catch((error: unknown) => { throw new Error(squid.output(), { cause: error }) })
  const streams = await Promise.all(Array.from({ length: 4 }, (_, n) => openStream(t, squidUrl, { headers: { cookie: `user=${n}` } })))
  t.equal(new Set(streams.map(({ sessionId }) => sessionId)).size, 4)
})
