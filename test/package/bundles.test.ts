import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { build } from 'rolldown'
import t from 'tap'

// Prints the response to a message, and the code of the error with which the Redis store refuses a client that has no connection.
const APP = `
  import Fastify from 'fastify'
  import sseSessions from 'fastify-sse-sessions'
  import { connect } from 'fastify-sse-sessions/client'
  import { redisStore } from 'fastify-sse-sessions/redis'
  import { EventEmitter } from 'node:events'

  const fail = async () => { throw new Error('there is no connection') }
  const createClient = () => Object.assign(new EventEmitter(), { call: fail, duplicate: createClient, subscribe: fail, unsubscribe: fail, disconnect: () => {} })
  async function main () {
    const app = Fastify({ return503OnClosing: false })
    await app.register(sseSessions)
    app.sseSessions.handle('double', (_session, data) => data * 2)
    const session = connect(await app.listen({ port: 0, host: '127.0.0.1' }))
    console.log('response', await session.request('double', 21))
    await session.close()
    await app.close()
    await Fastify().register(sseSessions, { store: redisStore({ client: createClient() }) })
  }
  main().catch(error => { console.log(error.code) }).finally(() => process.exit())
`

for (const format of ['esm', 'cjs'] as const) {
  t.test(`an app with the Redis store and the client can be bundled as ${format}`, async t => {
    const dir = await mkdtemp(join(tmpdir(), 'bundle-'))
    t.teardown(() => rm(dir, { recursive: true, force: true }))
    const file = join(dir, format === 'esm' ? 'app.mjs' : 'app.cjs')
    const warnings: string[] = []
    await build({
      input: 'app',
      platform: 'node',
      plugins: [{
        name: 'app',
        resolveId: id => id === 'app' ? join(process.cwd(), 'app.js') : null,
        load: id => id === join(process.cwd(), 'app.js') ? APP : null
      }],
      onLog: (_level, { message }) => { if (message.includes('sse-sessions')) warnings.push(message) },
      output: { file, format, codeSplitting: false }
    })
    t.strictSame(warnings, [])
    // Not in the folder of the project, so that the bundle cannot load a file or a package of it.
    const { stdout } = await promisify(execFile)(process.execPath, [file], { cwd: dir, env: { PATH: process.env.PATH }, timeout: 60_000 })
    t.equal(stdout, 'response 42\nFST_SSE_STORE_UNAVAILABLE\n')
    t.match(await readFile(file, 'utf8'), 'redis.call(', 'the bundle contains the Lua scripts')
  })
}
