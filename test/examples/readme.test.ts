import { spawn } from 'node:child_process'
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { once } from 'node:events'
import { Redis } from 'ioredis'
import type { Page } from 'playwright-core'
import t, { type Test } from 'tap'
import ts from 'typescript'
import type { Session, Sessions } from '../../lib/index.js'
import * as errors from '../../lib/errors.js'
import { resolveOptions, type SseSessionsOptions } from '../../lib/options.js'
import { redisStore } from '../../lib/redis.js'
import { launchChromium, needsChromium } from '../support/browser.js'
import { bundle } from '../support/bundle.js'
import { runScript, watch, type Child } from '../support/child.js'
import { needsProgram } from '../support/program.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { blocks, nameOf, readme, table, take } from '../support/readme.js'
import { serve } from '../support/server.js'
import { openStream, post } from '../support/stream.js'
import { within } from '../support/wait.js'

// Below the repository, so that the package finds itself by name.
const root = fileURLToPath(new URL('../..', import.meta.url))
mkdirSync(`${root}/.ci-output`, { recursive: true })
const folder = mkdtempSync(`${root}/.ci-output/readme-`)
t.teardown(() => { rmSync(folder, { recursive: true }) })

function save (name: string, code: string): string {
  writeFileSync(`${folder}/${name}`, code)
  return `${folder}/${name}`
}

function shell (t: Test, command: string, env: Record<string, string> = {}): Child {
  return watch(t, spawn('sh', ['-c', `exec ${command}`], { cwd: root, detached: true, env: { PATH: process.env.PATH, ...env } }), command)
}

t.test('the two commands: one starts the examples, the other is what runs this', async t => {
  const start = take('sh')
  t.match(start, /^npm ci && npm start\n$/)
  // Without its build step, which would write what other tests are running.
  await shell(t, 'npm start --ignore-scripts', { PORT: '0' }).printed(/Examples: http:\/\/127\.0\.0\.1:\d+/)
  t.match(take('sh'), /^npm ci && npm test\n$/)
  t.match(take('sh'), /^npm install fastify fastify-sse-sessions\n$/)
})

/** Starts an app on a free port; resolves with its URL. */
async function start (t: Test, name: string, code: string): Promise<string> {
  const [url] = await runScript(t, save(name, code), { PORT: '0' }).printed(/http:\/\/\S+/, 30_000)
  return url
}

/** A page of an app's origin, and a script that it may ask for; all else is the app's. */
async function pageOf (t: Test, url: string, html: string, script = ''): Promise<Page> {
  const page = await (await launchChromium(t)).newPage()
  await page.route(`${url}/`, route => route.fulfill({ contentType: 'text/html', body: html }))
  await page.route(`${url}/page.js`, route => route.fulfill({ contentType: 'text/javascript', body: script }))
  return page
}

async function talk (page: Page, text: string): Promise<void> {
  await page.getByRole('textbox').fill(text)
  await page.getByRole('button').click()
  await page.getByRole('listitem').getByText(text).waitFor()
}

let quickStart = ''

t.test('the quick start works with curl, and with a page in Chromium', { ...needsProgram('curl'), ...needsChromium }, async t => {
  quickStart = take('js')
  const url = await start(t, 'quick-start.js', quickStart)
  const local = (command: string): string => command.trim().replace('http://127.0.0.1:3000', url)
  const stream = shell(t, local(take('sh')))
  const [, sessionId = ''] = await stream.printed(/"sessionId":"([^"]+)"/)
  t.match(stream.output(), /"text":"Welcome!"/)
  const say = shell(t, local(take('sh')), { SESSION_ID: sessionId })
  await say.printed(/\{"said":"hello"\}/)
  t.ok(await stream.printed(/event: said\n(id: .*\n)?data: \{"text":"hello"\}/))

  const page = await pageOf(t, url, take('html'))
  // Tells when the page has got its session, which it keeps to itself.
  await page.addInitScript(`
    window.EventSource = class extends EventSource {
      constructor (...args) {
        super(...args)
        this.addEventListener('welcome', () => { window.welcomed = true })
      }
    }
  `)
  await page.goto(url)
  await page.waitForFunction('window.welcomed')
  await talk(page, 'from the page')
})

t.test('the app of the quick start serves the client to a page, and talks with a program and with React', needsChromium, async t => {
  const url = await start(t, 'with-client.js', quickStart.replace('console.log', `${take('js')}\n$&`))
  const page = await pageOf(t, url, take('html'))
  await page.goto(url)
  await talk(page, 'from the client')

  const program = runScript(t, save('program.js', take('js')), { CHAT_URL: `${url}/chat` })
  const [code] = await within(once(program.process, 'exit'), 'the end of the program') as [number]
  t.match(program.output(), /heard hello\n[^]*\{ said: 'well\?' \}\n[^]*said \{ text: 'bye' \}/)
  t.equal(code, 0, program.output())

  save('chat.jsx', take('jsx'))
  const main = save('main.jsx', `
    import { StrictMode } from 'react'
    import { createRoot } from 'react-dom/client'
    import { Chat } from './chat.jsx'
    createRoot(document.querySelector('main')).render(<StrictMode><Chat /></StrictMode>)
  `)
  const react = await pageOf(t, url, '<main></main><script type="module" src="/page.js"></script>', await bundle(main))
  await react.goto(url)
  await react.getByText('open').waitFor()
  await react.getByRole('button').click()
  await react.getByText('open hello').waitFor()
})

/** Runs a fragment as the body of a function of the app and a session. */
async function runFragment (code: string, app: unknown, session: unknown): Promise<void> {
  const AsyncFunction = (async () => {}).constructor as new (...args: string[]) => (app: unknown, session: unknown) => Promise<void>
  await new AsyncFunction('app', 'session', code)(app, session)
}

async function openSession (t: Test, url: string, sessions: Sessions): Promise<{ stream: Awaited<ReturnType<typeof openStream>>, session: Session }> {
  const stream = await openStream(t, url)
  const session = await sessions.find(stream.sessionId)
  if (session === undefined) throw new Error('no session')
  return { stream, session }
}

t.test('the fragments of the API run', async t => {
  const { app, sessions, url } = await serve(t)
  await runFragment(take('js'), app, undefined)
  await runFragment(take('js'), app, undefined)
  const { stream, session } = await openSession(t, url, sessions)
  t.equal((await post(url, session.id, { nick: 'admin' }, { event: 'rename' })).status, 409)
  t.equal((await post(url, session.id, { nick: 'bob' }, { event: 'rename' })).status, 202)
  t.equal((await post(url, session.id, {}, { event: 'rename' })).status, 400)
  t.equal(session.data.nick, 'bob')
  await runFragment(take('js'), app, session)
  await stream.waitFor(({ event }) => event === 'close')
  t.strictSame(stream.events.slice(1).map(({ event, data }) => [event, data]), [
    ['message', { text: 'hi' }],
    ['typing', { who: 'ann' }],
    ['token', 'All'],
    ['token', ' is'],
    ['token', ' well'],
    ['close', { reason: 'bye' }]
  ])
  const other = await openSession(t, url, sessions)
  await runFragment(take('js'), app, other.session)
  t.ok(await other.stream.waitFor(({ event }) => event === 'news'))
})

t.test('the contract and the typed handler compile', t => {
  const files = ['contract.ts', 'typed.ts'].map(name => save(name, take('ts')))
  const options = { strict: true, skipLibCheck: true, noEmit: true, module: ts.ModuleKind.NodeNext, target: ts.ScriptTarget.ES2023, types: ['node'] }
  const problems = ts.getPreEmitDiagnostics(ts.createProgram(files, options))
  t.strictSame(problems.map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n')), [])
  t.end()
})

for (const name of ['the test of an app', 'the app with principals']) {
  t.test(`${name} runs`, async t => {
    const child = runScript(t, save(`${name.replaceAll(' ', '-')}.js`, take('js')))
    const [code] = await within(once(child.process, 'exit'), 'its end') as [number]
    t.equal(code, 0, child.output())
  })
}

t.test('the apps of many nodes', async t => {
  const [app, nodeRedis, shards] = [take('js'), take('js'), take('js')]

  await t.test('share their sessions, with either client of Redis, and hand them on when they are ended', needsRedis, async t => {
    const env = { PORT: '0', REDIS_URL: `redis://127.0.0.1:${(await startRedis(t)).port}` }
    const withNodeRedis = app.replace(/^import .* from 'ioredis'\n/m, '').replace(/^const redis = [^]*?\n\n/m, nodeRedis)
    const nodes = [runScript(t, save('node.js', app), env), runScript(t, save('other-node.js', withNodeRedis), env)] as const
    const [[one], [other]] = await Promise.all([nodes[0].printed(/http:\/\/\S+/, 30_000), nodes[1].printed(/http:\/\/\S+/, 30_000)])
    t.equal(await (await fetch(`${other}/health`)).text(), 'ok')
    const stream = await openStream(t, one, { path: '/chat/downward' })
    const say = async (url: string, text: string): Promise<void> => {
      t.equal((await post(url, stream.sessionId, { text }, { path: '/chat/upward' })).status, 201)
    }
    await say(other, 'heard')
    const { id = '' } = await stream.waitFor(({ event }) => event === 'message')
    await nodes[0].kill('SIGTERM')
    t.equal(nodes[0].process.exitCode, 0, nodes[0].output())
    await say(other, 'missed')
    const resumed = await openStream(t, other, { path: '/chat/downward', headers: { 'last-event-id': id } })
    await resumed.waitFor(({ event }) => event === 'message')
    t.match(resumed.events.map(({ data }) => data), [{ resumed: true }, { text: 'Data received: missed' }])
    await nodes[1].kill('SIGTERM')
    t.equal(nodes[1].process.exitCode, 0, nodes[1].output())
  })

  await t.test('know nothing of the sessions of other shards', needsRedis, async t => {
    const [red, blue] = await Promise.all([startRedis(t), startRedis(t)])
    const env = { PORT: '0', REDIS_RED: `redis://127.0.0.1:${red.port}`, REDIS_BLUE: `redis://127.0.0.1:${blue.port}` }
    const head = app.replace(/^const redis[^]*?\n\n/m, '').replace(/^await app.register.*\n/m, () => shards)
    const [url] = await runScript(t, save('shards.js', head), env).printed(/http:\/\/\S+/, 30_000)
    const stream = await openStream(t, url, { path: '/red/downward' })
    t.equal((await post(url, stream.sessionId, { text: 'hi' }, { path: '/blue/upward' })).status, 404)
    t.equal((await post(url, stream.sessionId, { text: 'hi' }, { path: '/red/upward' })).status, 201)
    await stream.waitFor(({ event }) => event === 'message')
  })
})

t.test('every code block was run', t => {
  // That of nginx has a test of its own.
  t.strictSame(blocks.filter(({ language, taken }) => !taken && language !== 'nginx'), [])
  t.end()
})

t.test('every option in the table is one, and every code is raised', t => {
  const options = table('Options', 'option').map(nameOf)
  t.ok(options.length > 15)
  for (const option of options) t.doesNotThrow(() => resolveOptions({ [option]: undefined } as SseSessionsOptions, 0), option)
  const client = new Redis({ lazyConnect: true })
  for (const option of table('Many nodes', 'option of `redisStore`').map(nameOf)) t.throws(() => redisStore({ client, [option]: NaN }), option)
  const raised = new Set(Object.values(errors)
    .filter(value => value.prototype instanceof Error)
    .map(Raised => new (Raised as new () => { code: string })().code))
  const named = new Set([...readme.matchAll(/FST_SSE_\w+/g)].map(([code]) => code))
  t.strictSame([...named].sort(), [...raised].sort())
  t.end()
})
