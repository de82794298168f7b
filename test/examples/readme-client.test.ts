import { readdirSync, readFileSync } from 'node:fs'
import { mock } from 'node:test'
import t, { type Test } from 'tap'
import { ClientError, connect, type ClientSession, type ConnectOptions, type SessionEvents } from '../../lib/client/index.js'
import { next } from '../support/clients.js'
import { nameOf, table } from '../support/readme.js'
import { welcome } from '../client/support/scripted-server.js'
import { signal, until, within } from '../support/wait.js'

/** A client with no options, of a server that says what is given, and no more; messages are refused for now. */
function connectTo (t: Test, events = '', onRequest: (url: string, init: RequestInit) => void = () => {}): ClientSession {
  const session = connect('', {
    fetch: async (url, init) => {
      onRequest(url, init)
      if (init.method === 'POST') return new Response(null, { status: 503 })
      return new Response(welcome() + events, { headers: { 'content-type': 'text/event-stream' } })
    }
  })
  t.teardown(() => session.close())
  return session
}

/** What a client with no options asks for: its stream, then to take a message. */
async function requests (t: Test): Promise<Array<RequestInit & { url: string }>> {
  const asked: Array<RequestInit & { url: string }> = []
  const session = connectTo(t, '', (url, init) => { asked.push({ url, ...init }) })
  session.send(1)
  await until(() => asked.length === 2, 'the message')
  return asked
}

const codeOf = (error: unknown): unknown => error instanceof ClientError ? error.code : error
const numberOf = (text: string): number => Number(text.replaceAll(' ', ''))

// What shows that a default is the one that the table tells.
const DEFAULTS: Record<keyof ConnectOptions, (t: Test, text: string) => Promise<void>> = {
  async headers (t, text) {
    const [stream, message] = await requests(t)
    t.equal(text, 'none')
    t.strictSame([stream?.headers, message?.headers].map(headers => Object.keys(headers ?? {})), [['accept'], ['x-session-id', 'content-type']])
  },

  async paths (t, text) {
    const [downward, upward] = (await requests(t)).map(({ url }) => url)
    t.equal(text, `\`{ downward: '${downward}', upward: '${upward}' }\``)
  },

  async fetch (t, text) {
    const real = globalThis.fetch
    t.teardown(() => { globalThis.fetch = real })
    globalThis.fetch = async () => new Response(null, { status: 204 })
    const session = connect('')
    await next(session, 'close')
    t.match(text, /^the global `fetch`/)
  },

  async credentials (t, text) {
    for (const { url, ...init } of await requests(t)) t.equal(text, `\`${new Request(`http://localhost${url}`, init).credentials}\``)
  },

  async timeout (t, text) {
    mock.timers.enable({ apis: ['setTimeout'] })
    t.teardown(() => { mock.timers.reset() })
    const session = connectTo(t)
    let outcome: unknown
    session.send(1).catch(error => { outcome = codeOf(error) })
    for (const [ms, expected] of [[numberOf(text) - 1, undefined], [1, 'TIMEOUT']] as const) {
      mock.timers.tick(ms)
      await new Promise(resolve => { setImmediate(resolve) })
      t.equal(outcome, expected)
    }
  },

  async maxQueued (t, text) {
    const session = connectTo(t)
    const messages = Array.from({ length: numberOf(text) + 1 }, () => session.send(1).catch(codeOf))
    session.close()
    const codes = await Promise.all(messages)
    t.equal(codes.indexOf('QUEUE_FULL'), codes.length - 1)
  },

  async maxEventSize (t, text) {
    for (const [size, expected] of [[numberOf(text), 'heard'], [numberOf(text) + 1, 'EVENT_TOO_LARGE']] as const) {
      const session = connectTo(t, `data: "${'x'.repeat(size - 2)}"\n\n`)
      const outcome = signal<unknown>()
      session.on('message', () => { outcome.resolve('heard') })
      session.on('error', error => { outcome.resolve(codeOf(error)) })
      t.equal(await within(outcome.promise, 'the event'), expected)
    }
  }
}

t.test('every option of the client is in the table, with its default', async t => {
  const rows = table('The client', 'option')
  t.strictSame(rows.map(nameOf), Object.keys(DEFAULTS))
  for (const row of rows) {
    const name = nameOf(row) as keyof ConnectOptions
    await t.test(name, t => DEFAULTS[name](t, row[1] ?? ''))
  }
})

t.test('every event of a client\'s session is in the table', async t => {
  const events: Record<keyof SessionEvents, string> = {
    open: 'that of `welcome`',
    disconnect: '`error`',
    resume: 'that of `welcome`',
    gap: '`after`, `resumedAt`, `reason`',
    reset: 'that of `welcome`',
    error: 'the error',
    close: '`reason`'
  }
  t.strictSame(table('The client', 'event').map(row => [nameOf(row), row[1]]), Object.entries(events))
})

t.test('every code that the client gives an error is in the table', async t => {
  const folder = new URL('../../lib/client/', import.meta.url)
  const code = readdirSync(folder).filter(name => /^(?!bundle)\w+\.[jt]s$/.test(name)).map(name => readFileSync(new URL(name, folder), 'utf8')).join('\n')
  // They stand before their messages, or as what a code is by default.
  const given = [...code.matchAll(/'([A-Z_]+)', ['`]|code = `([A-Z_]+)\$\{status\}`/g)].map(([, name, prefix]) => name ?? `${prefix}<status>`)
  t.strictSame(new Set(table('The client', 'code of a `ClientError`').map(nameOf)), new Set(given))
})
