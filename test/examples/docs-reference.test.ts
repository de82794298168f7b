import { readdirSync, readFileSync } from 'node:fs'
import { getHeapStatistics } from 'node:v8'
import type { FastifyRequest } from 'fastify'
import t from 'tap'
import ts from 'typescript'
import * as errors from '../../lib/errors.js'
import { resolveOptions, type SseSessionsOptions } from '../../lib/options.js'
import { serve } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { block, headingsOf, nameOf, read, root, table } from './docs.js'
import { runFragment } from './docs-run.js'

const OPTIONS = 'docs/reference/options.md'
const ERRORS = 'docs/reference/errors.md'
const API = 'docs/reference/api.md'

/** The value of a literal in the code font of a cell; `undefined` for "none". */
const valueOf = (cell = ''): unknown => cell === 'none' ? undefined : evaluate(nameOf([cell]))

// The text is a literal from the pages or sources of this repository.
function evaluate (literal: string): unknown {
  return new Function(`return (${literal})`)() // eslint-disable-line no-new-func
}

const COMPILER: ts.CompilerOptions = { strict: true, module: ts.ModuleKind.NodeNext, target: ts.ScriptTarget.ES2023, jsx: ts.JsxEmit.ReactJSX, types: ['node'] }

/** The declaration file of each entry point, by its name in the package's `exports`. */
const entries = Object.entries((JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { exports: Record<string, string | { types?: string, node?: { types: string } }> }).exports)
  .flatMap(([name, target]) => typeof target === 'string' ? [] : [[`fastify-sse-sessions${name.slice(1)}`, `${root}${(target.node?.types ?? target.types ?? '').slice(2)}`] as const])

const program = ts.createProgram(entries.map(([, file]) => file), COMPILER)
const checker = program.getTypeChecker()

function exportsOf (entry: string): Map<string, ts.Symbol> {
  const [, path = ''] = entries.find(([name]) => name === entry) ?? []
  const file = program.getSourceFile(path)
  const symbol = file === undefined ? undefined : checker.getSymbolAtLocation(file)
  if (symbol === undefined) throw new Error(`${entry} is not built: run npm run build`)
  return new Map(checker.getExportsOfModule(symbol).map(symbol => [symbol.name, symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol]))
}

/** The names of the public members of an exported class or interface. */
function membersOf (entry: string, name: string): string[] {
  const symbol = exportsOf(entry).get(name)
  if (symbol === undefined) throw new Error(`${entry} does not export ${name}`)
  return checker.getPropertiesOfType(checker.getDeclaredTypeOfSymbol(symbol))
    .map(({ name }) => name.replace(/^__@(\w+)@.*$/, '[Symbol.$1]'))
    .filter(name => !name.startsWith('#') && !name.startsWith('__#'))
}

t.test('the table of plugin options lists every option, with its default', t => {
  const rows = table(OPTIONS, 'Plugin options', 'option')
  t.strictSame(rows.map(nameOf).sort(), membersOf('fastify-sse-sessions', 'SseSessionsOptions').sort())
  const { downwardPath, upwardPath, cors = false, store, ...settings } = resolveOptions({}, 0)
  const defaults: Record<string, unknown> = { ...settings, cors, paths: { downward: downwardPath, upward: upwardPath } }
  const empty: Record<string, () => void> = {
    prefix: () => { t.equal(settings.prefix, '') },
    routes: () => { t.strictSame(settings.routes, { downward: {}, upward: {}, close: {} }) },
    logLevel: () => { t.equal(settings.logLevel, undefined) },
    logSerializers: () => { t.equal(settings.logSerializers, undefined) },
    heartbeatEvent: () => { t.equal(settings.heartbeatEvent, undefined) },
    principal: () => { t.equal(settings.principal?.({} as FastifyRequest), undefined) },
    expires: () => { t.equal(settings.expires, undefined) }
  }
  for (const row of rows) {
    const [name, documented = ''] = [nameOf(row), row[1]]
    t.doesNotThrow(() => resolveOptions({ [name]: undefined } as SseSessionsOptions, 0), name)
    if (documented === 'none') empty[name]?.()
    else if (name === 'maxBytes') t.equal(settings.maxBytes, Math.floor(getHeapStatistics().heap_size_limit / 4))
    else if (name === 'store') t.equal(nameOf([documented]), (store as { name: string }).name)
    else t.strictSame(defaults[name], valueOf(documented), name)
  }
  t.strictSame(rows.filter(([, documented]) => documented === 'none').map(nameOf).sort(), Object.keys(empty).sort())
  t.strictSame(table(OPTIONS, 'Logs', 'bound').map(row => [nameOf(row), valueOf(row[1])]), Object.entries(settings.log))
  t.end()
})

t.test('the tables of other options list every option', t => {
  for (const [chapter, title, entry, type] of [
    ['Options of `redisStore`', 'option of `redisStore`', 'fastify-sse-sessions/redis', 'RedisStoreOptions'],
    ['Client options', 'option of `connect`', 'fastify-sse-sessions/client', 'NodeConnectOptions'],
    ['Options of one request', 'option of `request`', 'fastify-sse-sessions/client', 'RequestOptions']
  ] as const) {
    t.strictSame(table(OPTIONS, chapter, title).map(nameOf).sort(), membersOf(entry, type).sort(), type)
  }
  t.end()
})

t.test('the defaults of redisStore are documented', t => {
  const rows = table(OPTIONS, 'Options of `redisStore`', 'option of `redisStore`')
  const documented = Object.fromEntries(rows.map(row => [nameOf(row), valueOf(row[1])]))
  t.strictSame(documented, { client: undefined, partitions: undefined, ...defaultsOf(`${root}lib/redis.ts`, 'redisStore') })
  t.end()
})

/** The defaults of the properties that a function destructures from its first parameter. */
function defaultsOf (path: string, name: string): Record<string, unknown> {
  const { statements } = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.ES2023, true)
  const pattern = statements.find((statement): statement is ts.FunctionDeclaration => ts.isFunctionDeclaration(statement) && statement.name?.text === name)?.parameters[0]?.name
  if (pattern === undefined || !ts.isObjectBindingPattern(pattern)) throw new Error(`${path} has no such function ${name}`)
  return Object.fromEntries(pattern.elements.flatMap(({ name, initializer }) => initializer === undefined ? [] : [[name.getText(), evaluate(initializer.getText())]]))
}

const clientSources = readdirSync(`${root}lib/client`).filter(name => name.endsWith('.ts')).map(name => `${root}lib/client/${name}`)

t.test('the options of injectSession and of a message are documented', t => {
  t.strictSame(table(API, 'fastify-sse-sessions/testing', 'option of `injectSession`').map(nameOf).sort(), membersOf('fastify-sse-sessions/testing', 'InjectSessionOptions').sort())
  t.strictSame(table(API, 'fastify-sse-sessions/fetch', 'option of `resumableFetch`').map(nameOf).sort(), membersOf('fastify-sse-sessions/fetch', 'ResumableFetchOptions').sort())
  t.strictSame(membersOf('fastify-sse-sessions', 'SendOptions').sort(), ['except', 'latest'])
  t.strictSame(membersOf('fastify-sse-sessions', 'LatestOptions'), ['latest'])
  t.strictSame(membersOf('fastify-sse-sessions', 'HandlerOptions'), ['schema', 'handlerTimeout', 'concurrent'])
  t.end()
})

t.test('every error code of the plugin is documented, with its status and class, and no other', t => {
  const raised = new Map(Object.values(errors)
    .filter(value => value.prototype instanceof Error)
    .map(Raised => new (Raised as new () => Error & { code: string, statusCode: number })())
    // The others are codes of Fastify.
    .filter(({ code }) => code.startsWith('FST_SSE_'))
    .map(error => [error.code, error]))
  const named = new Set([...read(ERRORS).matchAll(/FST_SSE_[A-Z_]+/g)].map(([code]) => code))
  t.strictSame([...named].sort(), [...raised.keys()].sort())
  const inResponses = table(ERRORS, 'Errors of this plugin', 'status').map(([status, code = '']) => [nameOf([code]), status] as const)
  for (const [code, status] of inResponses) t.equal(String(raised.get(code)?.statusCode), status, code)
  const thrown = ['Errors of server calls', 'Errors at start'].flatMap(chapter => table(ERRORS, chapter, 'code'))
  for (const [code = '', kind = ''] of thrown) {
    const error = raised.get(nameOf([code]))
    t.equal(kind, `\`${[TypeError, RangeError].find(Kind => error instanceof Kind)?.name ?? 'Error'}\`, status ${String(error?.statusCode)}`, code)
  }
  t.strictSame([...new Set([...inResponses.map(([code]) => code), ...thrown.map(nameOf)])].sort(), [...raised.keys()].sort(), 'each is in a table')
  t.end()
})

t.test('the example of an error response is what Fastify sends', async t => {
  const { url } = await serve(t)
  t.strictSame((await postMessage(url, 'unknown', {})).body, JSON.parse(block('docs/reference/errors.md', 'error')))
})

t.test('every code of the client is documented, and no other', t => {
  const raised = new Set<string>()
  for (const path of clientSources) {
    const visit = (node: ts.Node): void => {
      if (ts.isStringLiteral(node) && /^[A-Z_]{5,}$/.test(node.text) && !node.text.startsWith('FST_') && node.text !== 'DELETE') raised.add(node.text)
      ts.forEachChild(node, visit)
    }
    visit(ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.ES2023))
  }
  const documented = table(ERRORS, 'Errors of the client', 'code').map(nameOf)
  t.strictSame([...documented].sort(), [...raised, 'HTTP_<status>'].sort())
  t.end()
})

/** The text of the API page for an entry point: from its heading to the next of the same level. */
function chapterOf (entry: string): string {
  const lines = read(API).split('\n')
  const start = lines.indexOf(`## ${entry}`)
  if (start === -1) throw new Error(`${API} has no heading "${entry}"`)
  const end = lines.findIndex((line, index) => index > start && line.startsWith('## '))
  return lines.slice(start, end === -1 ? undefined : end).join('\n')
}

const hasName = (text: string, name: string): boolean => [...text.matchAll(/`([^`\n]+)`|^###? (.*)$/gm)]
  .some(([, code = '', heading = '']) => new RegExp(`(?<![\\w.])${name.replaceAll(/[[\].]/g, '\\$&')}(?!\\w)`).test(code + heading))

t.test('every export of every entry point is documented', t => {
  for (const [entry] of entries) {
    // The bundle has the exports of the client.
    const chapter = chapterOf(entry === 'fastify-sse-sessions/client/bundle' ? 'fastify-sse-sessions/client' : entry)
    const names = [...exportsOf(entry).keys()].filter(name => name !== 'default' && name !== 'module.exports')
    t.ok(names.length > 0, entry)
    t.strictSame(names.filter(name => !hasName(chapter, name)), [], entry)
  }
  t.ok(headingsOf(API).length > 10)
  t.end()
})

t.test('every member of the types that apps use is documented', t => {
  for (const [entry, chapter, title, name] of [
    ['fastify-sse-sessions', 'Sessions', 'member', 'Sessions'],
    ['fastify-sse-sessions', 'Channels', 'member', 'Channel'],
    ['fastify-sse-sessions', 'Runs', 'member of `Runs`', 'Runs'],
    ['fastify-sse-sessions', 'Runs', 'option of `start`', 'StartRunOptions'],
    ['fastify-sse-sessions', 'Runs', 'member of `Run`', 'Run'],
    ['fastify-sse-sessions', 'Runs', 'option of `reply`', 'RunReplyOptions'],
    ['fastify-sse-sessions', 'Runs', 'option of `resumable`', 'ResumableOptions'],
    ['fastify-sse-sessions', 'Hooks', 'hook', 'Hooks'],
    ['fastify-sse-sessions', 'Handlers', 'member of `Message`', 'Message'],
    ['fastify-sse-sessions', 'Handlers', 'member of `UpwardReply`', 'UpwardReply'],
    ['fastify-sse-sessions', 'Contracts', 'property', 'Contract'],
    ['fastify-sse-sessions/client', 'ClientSession', 'member', 'ClientSession'],
    ['fastify-sse-sessions/client', 'Events of the client session', 'event', 'SessionEvents']
  ] as const) {
    const rows = table(API, chapter, title).map(row => nameOf(row).replace(/(?<=\w|\])\(.*\)$/, ''))
    t.strictSame([...new Set(rows)].sort(), membersOf(entry, name).sort(), name)
  }
  const session = ['property', 'method'].flatMap(title => table(API, 'Session', title).map(row => nameOf(row).replace(/\(.*\)$/, '')))
  t.strictSame(session.sort(), membersOf('fastify-sse-sessions', 'Session').sort(), 'Session')
  for (const [entry, name] of [['fastify-sse-sessions/react', 'SessionHandle'], ['fastify-sse-sessions/testing', 'ReceivedEvent'], ['fastify-sse-sessions', 'Gap'], ['fastify-sse-sessions', 'SessionStats'], ['fastify-sse-sessions', 'HandlerContext']] as const) {
    t.strictSame(membersOf(entry, name).filter(member => !hasName(chapterOf(entry), member)), [], name)
  }
  t.end()
})

t.test('the example of a handler runs', async t => {
  const { app, sessions, url } = await serve(t)
  await runFragment(block('docs/reference/api.md', 'handler'), { app })
  const { sessionId } = await openStream(t, url)
  t.match(await postMessage(url, sessionId, { nick: 'admin' }, { event: 'rename' }), { status: 409, body: { error: 'taken' } })
  t.equal((await postMessage(url, sessionId, { nick: 'bob' }, { event: 'rename' })).status, 202)
  t.match(await postMessage(url, sessionId, {}, { event: 'rename' }), { status: 400, body: { code: 'FST_ERR_VALIDATION' } })
  t.equal((await sessions.find(sessionId))?.data.nick, 'bob')
})
