import { execFileSync } from 'node:child_process'
import t from 'tap'

t.test('require() and import return the plugin', async t => {
  const run = (...script: string[]): string => execFileSync(process.execPath, ['--no-warnings', ...script], { encoding: 'utf8', env: { PATH: process.env.PATH } }).trim()
  t.equal(run('-e', "const plugin = require('fastify-sse-sessions'); const app = require('fastify')(); app.register(plugin).ready().then(() => console.log(typeof plugin, app.sseSessions.size))"), 'function 0')
  t.equal(run('--input-type=module', '-e', "import plugin, { sseSessions, memoryStore } from 'fastify-sse-sessions'; console.log(plugin === sseSessions, typeof memoryStore)"), 'true function')
})

t.test('on a server, useSession renders a session that is connecting', async t => {
  const script = `
    import { createElement } from 'react'
    import { renderToString } from 'react-dom/server'
    import { useSession, useSessionEvent } from 'fastify-sse-sessions/react'
    console.log(renderToString(createElement(() => {
      const session = useSession('/chat')
      return [session.state, session.sessionId, useSessionEvent(session, 'said')].join()
    })))
  `
  t.equal(execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', env: { PATH: process.env.PATH }, stdio: ['ignore', 'pipe', 'inherit'] }), 'connecting,,\n')
})
