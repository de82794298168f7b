import { mock } from 'node:test'
import t, { type Test } from 'tap'
import { ClientError, connect, type ClientSession, type ConnectOptions } from '../../lib/client/index.js'
import { welcome } from '../client/support/scripted-server.js'
import { waitForEvent } from '../support/clients.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { nameOf, table } from './docs.js'

/** A client without options. Its server sends the given events, and responds to messages with 503. */
function connectTo (t: Test, events = '', onRequest: (url: string, init: RequestInit) => void = () => {}, options: ConnectOptions = {}): ClientSession {
  const session = connect('', {
    ...options,
    fetch: async (url, init) => {
      onRequest(url, init)
      if (init.method === 'POST') return new Response(null, { status: 503 })
      return new Response(welcome() + events, { headers: { 'content-type': 'text/event-stream' } })
    }
  })
  t.teardown(() => session.close())
  return session
}

/** The first two requests of a client without options: for its stream, and with a message. */
async function requests (t: Test, options: ConnectOptions = {}): Promise<Array<RequestInit & { url: string }>> {
  const made: Array<RequestInit & { url: string }> = []
  const session = connectTo(t, '', (url, init) => { made.push({ url, ...init }) }, options)
  session.send(1)
  await waitUntil(() => made.length === 2, 'the message')
  return made
}

const codeOf = (error: unknown): unknown => error instanceof ClientError ? error.code : error

// Each function asserts that the documented default is the default of the client. `dispatcher` is for Node; test/client/dispatcher.test.ts covers it.
const DEFAULTS: Record<keyof ConnectOptions, (t: Test, documented: string) => Promise<void>> = {
  async headers (t, documented) {
    const [stream, message] = await requests(t)
    t.equal(documented, 'none')
    t.strictSame([stream?.headers, message?.headers].map(headers => Object.keys(headers ?? {}).sort()), [['accept'], ['content-type', 'x-session-id']])
  },

  async paths (t, documented) {
    const [downward, upward] = (await requests(t)).map(({ url }) => url)
    t.equal(documented, `{ downward: '${downward}', upward: '${upward}' }`)
  },

  async fetch (t, documented) {
    const real = globalThis.fetch
    t.teardown(() => { globalThis.fetch = real })
    globalThis.fetch = async () => new Response(null, { status: 204 })
    const session = connect('')
    await waitForEvent(session, 'close')
    t.equal(documented, 'none')
  },

  async credentials (t, documented) {
    for (const { url, ...init } of await requests(t)) {
      t.notOk('credentials' in init, 'so fetch uses its own default')
      t.equal(new Request(`http://localhost${url}`, init).credentials, 'same-origin')
    }
    t.equal(documented, 'none')
  },

  async timeout (t, documented) {
    mock.timers.enable({ apis: ['setTimeout'] })
    t.teardown(() => { mock.timers.reset() })
    const session = connectTo(t)
    let outcome: unknown
    session.send(1).catch(error => { outcome = codeOf(error) })
    for (const [ms, expected] of [[Number(documented) - 1, undefined], [1, 'TIMEOUT']] as const) {
      mock.timers.tick(ms)
      await new Promise(resolve => { setImmediate(resolve) })
      t.equal(outcome, expected)
    }
  },

  async maxQueued (t, documented) {
    const session = connectTo(t)
    const messages = Array.from({ length: Number(documented) + 1 }, () => session.send(1).catch(codeOf))
    session.close()
    const codes = await Promise.all(messages)
    t.equal(codes.indexOf('QUEUE_FULL'), codes.length - 1)
  },

  async maxEventSize (t, documented) {
    for (const [size, expected] of [[Number(documented), 'received'], [Number(documented) + 1, 'EVENT_TOO_LARGE']] as const) {
      const session = connectTo(t, `data: "${'x'.repeat(size - 2)}"\n\n`)
      const outcome = deferred<unknown>()
      session.on('message', () => { outcome.resolve('received') })
      session.on('error', error => { outcome.resolve(codeOf(error)) })
      t.equal(await withTimeout(outcome.promise, 'the event'), expected)
    }
  },

  async shared (t, documented) {
    // Without Web Locks, the option has no effect.
    for (const shared of [true, false]) t.equal((await requests(t, { shared })).length, 2)
    t.equal(documented, 'false')
  }
}

t.test('every option of the client is documented, with its default', async t => {
  const rows = table('docs/reference/options.md', 'Client options', 'option of `connect`')
  t.strictSame(rows.map(nameOf), [...Object.keys(DEFAULTS), 'dispatcher'])
  for (const [name, check] of Object.entries(DEFAULTS)) {
    const [, documented = ''] = rows.find(row => nameOf(row) === name) ?? []
    await t.test(name, t => check(t, nameOf([documented])))
  }
})
