import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { runSource } from '../support/run-source.js'

// Resolves `undici` as if it was not installed.
const WITHOUT_UNDICI = `
  import { register } from 'node:module'
  register('data:text/javascript,' + encodeURIComponent(\`export async function resolve (specifier, context, next) {
    if (specifier === 'undici') throw Object.assign(new Error('Cannot find package'), { code: 'ERR_MODULE_NOT_FOUND' })
    return await next(specifier, context)
  }\`))
`

for (const [title, prelude, hasUndici] of [['without undici, the client in Node uses the global fetch', WITHOUT_UNDICI, false], ['with undici, the client in Node uses its fetch', '', true]] as const) {
  t.test(title, async t => {
    const { code, output } = await runSource(t, `${prelude}
      const { default: Fastify } = await import('fastify')
      const { default: sseSessions } = await import('./lib/index.js')
      const { connect } = await import('./lib/client/node.js')
      const app = Fastify({ return503OnClosing: false })
      await app.register(sseSessions)
      app.sseSessions.handle('double', (_session, data) => data * 2)
      const url = await app.listen({ port: 0, host: '127.0.0.1' })
      const { fetch } = globalThis
      let calls = 0
      globalThis.fetch = (...args) => { calls++; return fetch(...args) }
      const session = connect(url)
      console.log('response', await session.request('double', 21))
      await session.close()
      await app.close()
      console.log('global fetch was used:', calls > 0)
    `)
    t.match(output, 'response 42\n')
    t.match(output, `global fetch was used: ${!hasUndici}\n`)
    t.equal(code, 0, output)
  })
}

t.test('the declarations import only packages that are always installed', t => {
  const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as { dependencies: Record<string, string> }
  const allowed = [...Object.keys(dependencies), 'fastify']
  for (const name of readdirSync('dist', { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.d.ts'))) {
    const packages = [...readFileSync(`dist/${name}`, 'utf8').matchAll(/(?:from|import)\s*\(?\s*['"]([^'"]+)['"]/g)].map(([, specifier = '']) => specifier)
      .filter(specifier => !specifier.startsWith('.') && !specifier.startsWith('node:'))
    // Who uses this entry point has installed Vue.
    const isVue = name.endsWith('client/vue.d.ts')
    t.strictSame(packages.filter(specifier => !allowed.includes(specifier) && !(isVue && specifier === 'vue')), [], name)
  }
  t.end()
})
