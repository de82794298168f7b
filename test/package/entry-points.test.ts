import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import t from 'tap'

t.test('require() and import return the plugin', async t => {
  const run = (...script: string[]): string => execFileSync(process.execPath, ['--no-warnings', ...script], { encoding: 'utf8', env: { PATH: process.env.PATH } }).trim()
  t.equal(run('-e', "const plugin = require('fastify-sse-sessions'); const app = require('fastify')(); app.register(plugin).ready().then(() => console.log(typeof plugin, app.sseSessions.size))"), 'function 0')
  t.equal(run('--input-type=module', '-e', "import plugin, { sseSessions, memoryStore } from 'fastify-sse-sessions'; console.log(plugin === sseSessions, typeof memoryStore)"), 'true function')
})

// Without the flag, Node requires the ES modules. With it, as in Jest, the CommonJS modules.
for (const flags of [[], ['--no-experimental-require-module']]) {
  t.test(`require() returns all exports, with the flags [${flags.join()}]`, t => {
    const script = `
      const plugin = require('fastify-sse-sessions')
      const entries = ['redis', 'testing', 'client', 'fetch', 'react', 'vue', 'mcp'].map(name => require('fastify-sse-sessions/' + name))
      import('fastify-sse-sessions').then(async namespace => {
        const missing = [plugin, ...entries].map((loaded, index) => [loaded, index === 0 ? '' : '/' + ['redis', 'testing', 'client', 'fetch', 'react', 'vue', 'mcp'][index - 1]])
          .map(async ([loaded, name]) => Object.keys(await import('fastify-sse-sessions' + name)).filter(key => key !== 'module.exports' && loaded[key] === undefined))
        console.log(JSON.stringify((await Promise.all(missing)).flat()), typeof plugin, plugin === plugin.default && plugin === plugin.sseSessions, namespace.default === plugin)
      })
    `
    const output = execFileSync(process.execPath, ['--no-warnings', ...flags, '-e', script], { encoding: 'utf8', env: { PATH: process.env.PATH } }).trim()
    t.equal(output, `[] function true ${flags.length === 0}`)
    t.end()
  })
}

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

const SERVER_RENDERERS = {
  vue: `
    import { createSSRApp, h } from 'vue'
    import { renderToString } from 'vue/server-renderer'
    import { useSession, useSessionEvent } from 'fastify-sse-sessions/vue'
    console.log(await renderToString(createSSRApp({
      setup () {
        const { state, sessionId, ...session } = useSession('/chat')
        const said = useSessionEvent({ state, sessionId, ...session }, 'said')
        return () => [state.value, sessionId.value, said.value].join()
      }
    })))
  `,
  svelte: `
    import { render } from 'svelte/server'
    import { useSession, useSessionEvent } from 'fastify-sse-sessions/svelte'
    const { body } = await render(renderer => {
      const session = useSession('/chat')
      renderer.push([session.state, session.sessionId, useSessionEvent(session, 'said').current].join())
    })
    console.log(body.replaceAll(/<!--.*?-->/g, ''))
  `
}
for (const [framework, script] of Object.entries(SERVER_RENDERERS)) {
  t.test(`on a server, useSession of ${framework} renders a session that is connecting`, t => {
    t.equal(execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', env: { PATH: process.env.PATH }, stdio: ['ignore', 'pipe', 'inherit'] }), 'connecting,,\n')
    t.end()
  })
}

t.test('the React hooks are a client module for frameworks with server components', t => {
  for (const folder of ['dist', 'dist/cjs']) t.match(readFileSync(`${folder}/client/react.js`, 'utf8'), /^(?:"use strict";\s*)?['"]use client['"]/, folder)
  t.end()
})
