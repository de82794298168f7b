import { spawnSync } from 'node:child_process'
import { inspect } from 'node:util'
import t from 'tap'
import { connect, type ClientSession, type ConnectOptions } from '../../lib/client/node.js'
import * as errors from '../../lib/errors.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { waitUntil } from '../support/wait.js'
import { block, headingsOf, read } from './docs.js'
import { runFragment } from './docs-run.js'

const page = 'docs/troubleshooting.md'

t.test('each symptom has a cause and a fix, and a place in the list at the top', async t => {
  const symptoms = headingsOf(page).filter(({ level }) => level === 3)
  t.ok(symptoms.length >= 20)
  const sections = read(page).split(/^### /m).slice(1)
  for (const section of sections) t.match(section, /^\*\*Cause\.\*\* [^]*?^\*\*Fix\.\*\* /m, section.split('\n')[0] ?? '')
  const [list = ''] = read(page).split(/^## /m)
  for (const { text, anchor } of symptoms) t.ok(list.includes(`](#${anchor})`), text)
})

t.test('every code of the plugin that is named exists', async t => {
  const codes = Object.values(errors)
    .filter(value => value.prototype instanceof Error)
    .map(PluginError => new (PluginError as new () => { code: string })().code)
  for (const [code] of read(page).matchAll(/FST_SSE_\w+/g)) t.ok(codes.includes(code), code)
})

t.test('an error handler decides what clients receive of unexpected errors, and logs them', async t => {
  const lines: string[] = []
  const { sessions, url } = await serve(t, {}, {
    fastify: { logger: { level: 'error', stream: { write: (line: string) => { lines.push(line) } } } },
    beforeRegister: app => runFragment(block('docs/troubleshooting.md', 'errors'), { app })
  })
  sessions.handle('save', () => { throw new Error('secret') })
  const { sessionId } = await openStream(t, url)
  const batch = await postMessage(url, sessionId, '{"event":"save"}\n{"event":"unknown"}', { headers: { 'content-type': 'application/x-ndjson' } })
  matchList(t, batch.body, [{ status: 500, body: { message: 'Something went wrong' } }, { status: 404, body: { code: 'FST_SSE_EVENT_UNKNOWN' } }])
  matchList(t, lines, [/secret/])
  t.equal(lines.length, 1)
})

t.test('the code that aborts a signal cannot catch the error of a listener', async t => {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['-e', block('docs/troubleshooting.md', 'signal')], { env: { PATH: process.env.PATH }, encoding: 'utf8' })
  t.equal(status, 1)
  t.equal(stdout, '')
  t.match(stderr, /Error: the listener failed/)
})

t.test('the client prints its requests, and what happens to the session, without its id', async t => {
  const { sessions, url } = await serve(t, { prefix: '/chat' })
  const printed: string[] = []
  const debug = (...values: unknown[]): void => { printed.push(inspect(values)) }
  let session: ClientSession | undefined
  const connectTo = (path: string, options: ConnectOptions): ClientSession => {
    session = connect(url + path, options)
    return session
  }
  await runFragment(block('docs/troubleshooting.md', 'log'), { connect: connectTo, console: { debug } })
  t.teardown(() => session?.close())
  await session?.request('message', { text: 'hi' })
  await (await sessions.find(session?.sessionId ?? ''))?.close('over')
  await waitUntil(() => printed.some(line => line.includes('close')), 'the close')
  const text = printed.join('\n')
  for (const pattern of [/'GET'.*downward.*200/, /\[ 'open' \]/, /'POST'.*upward.*200/, /'close', \{ reason: 'over' \}/]) t.match(text, pattern)
  t.notMatch(text, session?.sessionId ?? '')
})
