import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'

// What an app's author writes, with each way of ours to be typed.
const USER = `
import Fastify, { type FastifyInstance } from 'fastify'
import sseSessions, { MemoryStore, type Channel, type Hooks, type Log, type LogBounds, type LogListener, type Session, type Sessions, type SseSessionsOptions, type Store } from 'fastify-sse-sessions'
import { injectSession } from 'fastify-sse-sessions/testing'
import type { JsonSchemaToTsProvider } from '@fastify/type-provider-json-schema-to-ts'

declare module 'fastify' {
  interface FastifyInstance { adminSessions: Sessions }
}
declare module 'fastify-sse-sessions' {
  interface SessionData { nick?: string }
}

export class OwnStore implements Store {
  readonly #store = new MemoryStore()
  head () { return this.#store.head() }
  log (name: string, bounds: LogBounds, listener: LogListener): Log { return this.#store.log(name, bounds, listener) }
  append (log: Log, draft: { frame: string }) { return this.#store.append(log, draft) }
  release (log: Log) { this.#store.release(log) }
  close () { this.#store.close() }
}

const app: FastifyInstance = Fastify()
const options: SseSessionsOptions = { prefix: '/chat', cors: { origin: true }, routes: { upward: { bodyLimit: 1024, config: {} } }, store: new OwnStore(), principal: async request => request.headers['x-user']?.toString() }
await app.register(sseSessions, options)
await app.register(sseSessions, { prefix: '/admin', decorator: 'adminSessions' })
const onGap: Hooks['onGap'] = (session, gap) => { session.send(gap.resumedAt) }
app.adminSessions.addHook('onGap', onGap).addHook('onOpen', async (session, request) => ({ ip: request.ip, label: session.label }))
app.sseSessions.addHook('onMessage', async (session: Session, message, _request, reply) => {
  const nick: string | undefined = session.data.nick
  const room: Channel = app.sseSessions.channel('room')
  await room.emit(message.event, { nick, data: message.data }, { except: session })
  return reply.code(201).send({ ok: true })
})
const schema = { type: 'object', properties: { who: { type: 'string' } }, required: ['who'] } as const
app.sseSessions.withTypeProvider<JsonSchemaToTsProvider>().handle('typing', { schema }, async (session, data, { request, reply }) => {
  const who: string = data.who
  await session.update({ nick: who })
  request.log.info(reply.sent)
})
for await (const { event, data } of await injectSession(app, { url: '/chat/downward' })) console.log(event, data)
`

t.test('the declarations compile in the project of a user who checks those of libraries', async t => {
  const file = join(t.testdir({ 'user.ts': USER }), 'user.ts')
  const program = ts.createProgram([file], {
    target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.NodeNext, strict: true, exactOptionalPropertyTypes: true, skipLibCheck: false, noEmit: true, types: ['node']
  })
  const ours = ts.getPreEmitDiagnostics(program).filter(({ file }) => file?.fileName.includes('/node_modules/') !== true)
  t.equal(ts.formatDiagnostics(ours, { getCanonicalFileName: name => name, getCurrentDirectory: () => t.testdirName, getNewLine: () => '\n' }), '')
  t.ok(program.getSourceFile(join(process.cwd(), 'dist/index.d.ts')), 'it was the package as built that was compiled')
})

t.test('require() and import give the plugin', async t => {
  const run = (...script: string[]): string => execFileSync(process.execPath, ['--no-warnings', ...script], { encoding: 'utf8', env: { PATH: process.env.PATH } }).trim()
  t.equal(run('-e', "const plugin = require('fastify-sse-sessions'); const app = require('fastify')(); app.register(plugin).ready().then(() => console.log(typeof plugin, app.sseSessions.size))"), 'function 0')
  t.equal(run('--input-type=module', '-e', "import plugin, { sseSessions, MemoryStore } from 'fastify-sse-sessions'; console.log(plugin === sseSessions, typeof MemoryStore)"), 'true function')
})
