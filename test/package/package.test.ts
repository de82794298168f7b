import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'

// What an app's author writes, with each way of ours to be typed.
const USER = `
import Fastify, { type FastifyInstance } from 'fastify'
import sseSessions, { memoryStore, type Channel, type EntryInput, type Hooks, type StoreFactory, type Session, type Sessions, type SessionState, type SseSessionsOptions, type Store, type StoreSettings } from 'fastify-sse-sessions'
import { injectSession } from 'fastify-sse-sessions/testing'
import type { JsonSchemaToTsProvider } from '@fastify/type-provider-json-schema-to-ts'

declare module 'fastify' {
  interface FastifyInstance { adminSessions: Sessions }
}
declare module 'fastify-sse-sessions' {
  interface SessionData { nick?: string }
}

export const sent: EntryInput[] = []
const ownStore: StoreFactory = (settings: StoreSettings, user) => {
  const store: Store = memoryStore(settings, user)
  const send = store.send.bind(store)
  return Object.assign(store, { send: (state: SessionState, draft: EntryInput) => send(state, sent[sent.push(draft) - 1] ?? draft) })
}

const app: FastifyInstance = Fastify()
const options: SseSessionsOptions = { prefix: '/chat', cors: { origin: true }, routes: { upward: { bodyLimit: 1024, config: {} } }, store: ownStore, principal: async request => request.headers['x-user']?.toString() }
await app.register(sseSessions, options)
await app.register(sseSessions, { prefix: '/admin', decorator: 'adminSessions' })
const onGap: Hooks['onGap'] = (session, gap) => { session.send(gap.resumedAt) }
app.adminSessions.addHook('onGap', onGap).addHook('onOpen', async (session, request) => ({ ip: request.ip, label: session.shortId }))
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

// What the author of a page writes, and that of a client in Node.
const CONTRACT = `
export interface Chat {
  down: { said: { who: string, text: string } }
  up: { say: (data: { text: string }) => { delivered: number } }
}
`
const PAGE = `
import { ClientError, connect, type ClientSession, type ConnectOptions, type Received, type State } from 'fastify-sse-sessions/client'
import { connect as connectOfBundle } from 'fastify-sse-sessions/client/bundle'
import { useSession, useSessionEvent, type SessionHandle } from 'fastify-sse-sessions/react'
import type { Chat } from './contract.js'

const options: ConnectOptions = { headers: async () => ({ authorization: 'Bearer …' }), credentials: 'include' }
const session: ClientSession<Chat> = connect<Chat>('/chat', options)
const off: () => void = session.on('said', ({ who, text }) => { console.log(who.trim(), text.trim()) })
const { delivered } = await session.request('say', { text: 'hi' }, { timeout: 100, signal: session.signal })
const received: Array<Received<Chat>> = []
for await (const event of connectOfBundle<Chat>('/chat')) received.push(event)
const state: State = session.state
await session.close().catch(error => { if (error instanceof ClientError) off() })

export function useText (): string {
  const session: SessionHandle<Chat> = useSession<Chat>('/chat', options)
  return [useSessionEvent(session, 'said')?.text, session.sessionId, state, delivered.toFixed()].join()
}
`
const PROGRAM = `
import { Agent } from 'undici'
import { connect } from 'fastify-sse-sessions/client'
import type { Chat } from './contract.js'

const session = connect<Chat>(() => new URL('http://127.0.0.1:3000/chat'), { dispatcher: new Agent() })
for await (const { data } of session) console.log(data.text.trim())
`

/** What TypeScript says of a user's project that has the declarations of libraries checked; dependencies' own faults are left out. */
function complaints (files: string[], options: ts.CompilerOptions): string {
  const program = ts.createProgram(files, { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.NodeNext, strict: true, exactOptionalPropertyTypes: true, skipLibCheck: false, noEmit: true, types: ['node'], ...options })
  // It is the package as built that is to be compiled.
  if (!program.getSourceFiles().some(({ fileName }) => fileName.startsWith(join(process.cwd(), 'dist/')))) return 'The package is not there'
  const ours = ts.getPreEmitDiagnostics(program).filter(({ file }) => file?.fileName.includes('/node_modules/') !== true)
  return ts.formatDiagnostics(ours, { getCanonicalFileName: name => name, getCurrentDirectory: () => process.cwd(), getNewLine: () => '\n' })
}

t.test('the declarations compile in the projects of users who check those of libraries', async t => {
  const dir = t.testdir({ 'user.ts': USER, 'contract.ts': CONTRACT, 'page.ts': PAGE, 'program.ts': PROGRAM })
  const [user, page, program] = ['user.ts', 'page.ts', 'program.ts'].map(name => join(dir, name)) as [string, string, string]
  t.equal(complaints([user, page, program], {}), '')
  t.equal(complaints([page], { types: [], module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler }), '', 'for a bundler, without Node')
  t.equal(complaints([user, program], { lib: ['lib.es2024.d.ts'] }), '', 'without the DOM')
})

t.test('a server renders the hook as a session that is not there yet', async t => {
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

t.test('require() and import give the plugin', async t => {
  const run = (...script: string[]): string => execFileSync(process.execPath, ['--no-warnings', ...script], { encoding: 'utf8', env: { PATH: process.env.PATH } }).trim()
  t.equal(run('-e', "const plugin = require('fastify-sse-sessions'); const app = require('fastify')(); app.register(plugin).ready().then(() => console.log(typeof plugin, app.sseSessions.size))"), 'function 0')
  t.equal(run('--input-type=module', '-e', "import plugin, { sseSessions, memoryStore } from 'fastify-sse-sessions'; console.log(plugin === sseSessions, typeof memoryStore)"), 'true function')
})
