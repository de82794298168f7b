import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { block } from '../examples/docs.js'
import { createTestFolder } from '../support/test-folder.js'

const STRICTEST: ts.CompilerOptions = {
  noUncheckedIndexedAccess: true,
  noImplicitOverride: true,
  noImplicitReturns: true,
  noUnusedLocals: true,
  verbatimModuleSyntax: true,
  isolatedModules: true,
  erasableSyntaxOnly: true
}

// The code of an app, which uses each kind of type that the package exports.
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
const customStore: StoreFactory = (settings: StoreSettings, callbacks) => {
  const store: Store = memoryStore(settings, callbacks)
  const send = store.send.bind(store)
  return Object.assign(store, { send: (state: SessionState, entry: EntryInput) => send(state, sent[sent.push(entry) - 1] ?? entry) })
}

const app: FastifyInstance = Fastify()
const options: SseSessionsOptions = { prefix: '/chat', cors: { origin: true }, routes: { upward: { bodyLimit: 1024, config: {} } }, store: customStore, principal: async request => request.headers['x-user']?.toString() }
await app.register(sseSessions, options)
await app.register(sseSessions, { prefix: '/admin', decorator: 'adminSessions' })
const onGap: Hooks['onGap'] = (session, gap) => { session.send(gap.resumedAt) }
app.adminSessions.addHook('onGap', onGap).addHook('onOpen', async (session, request) => ({ ip: request.ip, shortId: session.shortId }))
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

// An app with a type provider and a contract. The functions at the top know neither.
const TYPED = `
import Fastify, { type FastifyInstance } from 'fastify'
import sseSessions, { type Channel, type ContractChannel, type ContractPrincipalSessions, type ContractSession, type ContractSessions, type PrincipalSessions, type Session, type Sessions } from 'fastify-sse-sessions'
import type { JsonSchemaToTsProvider } from '@fastify/type-provider-json-schema-to-ts'

interface Chat {
  down: { said: { text: string }, cleared: void }
  up: { say: (data: { text: string }) => { members: number }, clear: () => void }
}

const greet = (session: Session) => session.emit('said', { text: 'hi' })
const count = (channel: Channel) => channel.count()
const countAll = async (sessions: Sessions) => sessions.size + await count(sessions.channel('all'))
const close = (app: FastifyInstance) => app.sseSessions.broadcast('closing', null)

const app = Fastify().withTypeProvider<JsonSchemaToTsProvider>()
await app.register(sseSessions)
const schema = { type: 'object', properties: { text: { type: 'string' }, bold: { type: 'boolean', default: false } }, required: ['text'], additionalProperties: false } as const
app.sseSessions.handle('typed', { schema }, (_session, data): boolean => data.bold && data.text.length > 0)
// @ts-expect-error: the schema has no such property
app.sseSessions.handle('typed', { schema }, (_session, data) => data.size)

const sessions = app.sseSessions.withContract<Chat>()
const others: ContractSessions<Chat> = sessions
for (const typed of [sessions, others.withTypeProvider<JsonSchemaToTsProvider>(), others.withTypeProvider<JsonSchemaToTsProvider>().withContract<Chat>()]) {
  typed.handle('say', { schema }, async (session, data) => {
    const bold: boolean = data.bold
    await session.emit('said', { text: bold ? data.text.toUpperCase() : data.text })
    return { members: 1 }
  })
}
others.handle('say', { schema }, async (session, data) => {
  // @ts-expect-error: without a type provider, the contract types the data
  console.log(data.bold)
  return { members: await countAll(others) }
})
// @ts-expect-error: the contract has another response
sessions.handle('say', { schema }, () => 'hi')
// @ts-expect-error: the contract has no such message
sessions.handle('shout', () => {})
sessions.handle('clear', async (session: ContractSession<Chat>) => {
  await session.emit('cleared')
  await greet(session)
  const channel: ContractChannel<Chat> = sessions.channel('lobby')
  await channel.emit('cleared', undefined, { except: session })
  await sessions.broadcast('cleared')
  await countAll(sessions)
  const user: ContractPrincipalSessions<Chat> = sessions.of('ann')
  await user.emit('cleared')
  // @ts-expect-error: the data is missing
  await user.emit('said')
  const [first]: Array<ContractSession<Chat>> = await user.sessions()
  await first?.emit('cleared')
  const untyped: PrincipalSessions = user
  await untyped.emit('anything', 1)
  await count(channel)
  // @ts-expect-error: the data is missing
  await session.emit('said')
  // @ts-expect-error: the data has another type
  await channel.emit('said', { text: 1 })
  // @ts-expect-error: the contract has no such event
  await sessions.broadcast('unsaid', { text: 'hi' })
  // @ts-expect-error: the contract has no event 'message'
  await session.send('hi')
})
await close(app)
`

// The code of a page, and of a client in Node.
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
import * as svelte from 'fastify-sse-sessions/svelte'
import * as vue from 'fastify-sse-sessions/vue'
import type { Chat } from './contract.js'

const options: ConnectOptions = { headers: async () => ({ authorization: 'Bearer …' }), credentials: 'include' }
const session: ClientSession<Chat> = connect<Chat>('/chat', options)
const removeListener: () => void = session.on('said', ({ who, text }) => { console.log(who.trim(), text.trim()) })
const { delivered } = await session.request('say', { text: 'hi' }, { timeout: 100, signal: session.signal })
const received: Array<Received<Chat>> = []
for await (const event of connectOfBundle<Chat>('/chat')) received.push(event)
const state: State = session.state
await session.close().catch(error => { if (error instanceof ClientError) removeListener() })

export function useText (): string {
  const session: SessionHandle<Chat> = useSession<Chat>('/chat', options)
  return [useSessionEvent(session, 'said')?.text, session.sessionId, state, delivered.toFixed()].join()
}
export function useVue (): string {
  const session: vue.SessionHandle<Chat> = vue.useSession<Chat>(() => '/chat', () => options)
  return [vue.useSessionEvent(session, 'said').value?.text.trim(), session.lastEvent.value?.data.who.trim(), session.state.value].join()
}
export function useSvelte (): string {
  const session: svelte.SessionHandle<Chat> = svelte.useSession<Chat>(() => null, () => options)
  return [svelte.useSessionEvent(session, 'said').current?.text.trim(), session.lastEvent?.data.who.trim(), session.state].join()
}
`
const PROGRAM = `
import { Agent } from 'undici'
import { connect } from 'fastify-sse-sessions/client'
import type { Chat } from './contract.js'

const session = connect<Chat>(() => new URL('http://127.0.0.1:3000/chat'), { dispatcher: new Agent() })
for await (const { data } of session) console.log(data.text.trim())
`

/** Compiles files of a user's project with `skipLibCheck: false`. Returns the errors of TypeScript, without those of other dependencies. */
function compile (files: string[], options: ts.CompilerOptions): string {
  const program = ts.createProgram(files, { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.NodeNext, strict: true, exactOptionalPropertyTypes: true, skipLibCheck: false, noEmit: true, types: ['node'], ...options })
  // The files must use the built package, not its sources.
  if (!program.getSourceFiles().some(({ fileName }) => fileName.startsWith(join(process.cwd(), 'dist/')))) return 'The built package is missing'
  // The check of the other files takes most of the time.
  const checked = program.getSourceFiles().filter(({ fileName }) => !fileName.includes('/node_modules/'))
  const diagnostics = checked.flatMap(file => ts.getPreEmitDiagnostics(program, file)).filter(({ file }) => file?.fileName.includes('/node_modules/') !== true)
  return ts.formatDiagnostics(ts.sortAndDeduplicateDiagnostics(diagnostics), { getCanonicalFileName: name => name, getCurrentDirectory: () => process.cwd(), getNewLine: () => '\n' })
}

t.test('the declarations compile in projects with skipLibCheck: false', async t => {
  const dir = createTestFolder(t, { 'user.ts': USER, 'typed.ts': TYPED, 'contract.ts': CONTRACT, 'page.ts': PAGE, 'program.ts': PROGRAM, 'server.mts': block('README.md', 'server') })
  const [user, page, program, ...more] = ['user.ts', 'page.ts', 'program.ts', 'typed.ts', 'server.mts'].map(name => join(dir, name)) as [string, string, string, ...string[]]
  t.equal(compile([user, page, program, ...more], STRICTEST), '')
  t.equal(compile([page], { types: [], module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler }), '', 'for a bundler, without Node')
  t.equal(compile([user, program], { lib: ['lib.es2024.d.ts'] }), '', 'without the DOM')
})
