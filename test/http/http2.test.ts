import { createParser } from 'eventsource-parser'
import t, { type Test } from 'tap'
import { launchChromium, needsChromium } from '../support/browser.js'
import { ask, http2Client, http2Server, type Http2Answer } from '../support/http2.js'
import { serve, type Served, type ServeOptions } from '../support/server.js'
import { until, within } from '../support/wait.js'

/** Serves over HTTP/2 with TLS. `connections` counts the connections on which streams were requested. */
async function serveHttp2 (t: Test, { before, ...more }: ServeOptions = {}): Promise<Served & { readonly connections: () => number }> {
  const ports = new Set<number | undefined>()
  const served = await serve(t, {}, {
    fastify: http2Server,
    before: async app => {
      app.addHook('onRequest', async ({ url, socket }) => { if (url === '/downward') ports.add(socket.remotePort) })
      await before?.(app)
    },
    ...more
  })
  return { ...served, url: `https://localhost:${served.port}`, connections: () => ports.size }
}

/** Parses a stream into the names of its events. */
const parseNames = (text: string): string[] => {
  const found: string[] = []
  const parser = createParser({ onEvent: ({ event = 'message' }) => { found.push(event) } })
  parser.feed(text)
  return found
}

t.test('an HTTP/2 client opens, posts to, resumes, replaces and closes a session over one connection', async t => {
  const served = await serveHttp2(t)
  const { sessions } = served
  const client = http2Client(t, served)
  const stream = await ask(client, { ':path': '/downward', accept: 'text/event-stream' })
  t.match(stream.headers, { ':status': 200, 'content-type': 'text/event-stream; charset=utf-8', 'x-accel-buffering': 'no' })
  t.notOk('connection' in stream.headers || 'transfer-encoding' in stream.headers, 'HTTP/2 forbids them')
  const id = String(stream.headers['x-session-id'])
  const post = (text: string): Promise<Http2Answer> =>
    ask(client, { ':method': 'POST', ':path': '/upward', 'content-type': 'application/json', 'x-session-id': id }, { body: JSON.stringify({ text }) })
  t.match((await post('one')).headers, { ':status': 201, 'x-session-connected': 'true' })
  await until(() => stream.text().includes('Data received: one'), 'the echo')
  stream.cancel()
  await until(async () => (await sessions.find(id))?.connected === false, 'the disconnect')
  t.match((await post('two')).headers, { ':status': 201, 'x-session-connected': 'false' })
  const resumed = await ask(client, { ':path': '/downward', 'x-session-id': id })
  await until(() => resumed.text().includes('Data received: two'), 'the missed event')
  t.strictSame(parseNames(resumed.text()), ['welcome', 'message'])
  const replacing = await ask(client, { ':path': '/downward', 'x-session-id': id })
  await within(resumed.ended, 'the end of the replaced stream')
  t.match((await ask(client, { ':method': 'DELETE', ':path': '/downward', 'x-session-id': id })).headers, { ':status': 204 })
  await within(replacing.ended, 'the end of the stream')
  t.strictSame(parseNames(replacing.text()), ['welcome', 'close'])
  t.equal((await ask(client, { ':path': '/downward', 'last-event-id': 'closed' })).headers[':status'], 204)
  t.equal(served.connections(), 1)
})

t.test('an HTTP/2 client that stops reading receives all events when it reads again', async t => {
  const served = await serveHttp2(t)
  const client = http2Client(t, served)
  const stream = await ask(client, { ':path': '/downward' }, { stalled: true })
  const session = await served.sessions.find(String(stream.headers['x-session-id']))
  // More than the HTTP/2 flow-control windows and the socket buffers take, and less than the log keeps.
  const long = 'x'.repeat(9_000)
  for (let i = 0; i < 100; i++) await session?.emit('part', { i, long })
  stream.read()
  await session?.emit('last', null)
  await until(() => stream.text().includes('event: last'), 'the last event')
  t.equal(parseNames(stream.text()).filter(name => name === 'part').length, 100)
})

t.test('twelve EventSources of a page share one HTTP/2 connection', needsChromium, async t => {
  const served = await serveHttp2(t, {
    before: app => app.get('/', async (_request, reply) => reply.type('text/html').send('<!doctype html><title>twelve</title>'))
  })
  const { sessions, url } = served
  const browser = await launchChromium(t)
  const page = await (await browser.newContext({ ignoreHTTPSErrors: true })).newPage()
  await page.goto(url)
  await page.evaluate(`
    window.got = []
    window.sources = Array.from({ length: 12 }, (_, index) => {
      const source = new EventSource('/downward')
      got.push([])
      for (const name of ['welcome', 'news', 'message']) source.addEventListener(name, event => { got[index].push(name === 'welcome' ? JSON.parse(event.data).sessionId : name + ' ' + event.data) })
      return source
    })`)
  await page.waitForFunction('got.every(list => list.length === 1)', undefined, { timeout: 10_000 })
  t.equal(sessions.stats().streams, 12)
  const ids = await page.evaluate('got.map(([id]) => id)') as string[]
  t.equal(new Set(ids).size, 12)
  await sessions.broadcast('news', 1)
  await page.waitForFunction("got.every(list => list[1] === 'news 1')", undefined, { timeout: 10_000 })
  const statuses = await page.evaluate(`Promise.all(got.map(([id], index) => fetch('/upward', {
    method: 'POST', headers: { 'content-type': 'application/json', 'x-session-id': id }, body: JSON.stringify({ text: 'from ' + index })
  }).then(({ status }) => status)))`)
  t.strictSame(statuses, Array(12).fill(201), 'messages are posted over the same connection')
  await page.waitForFunction("got.every((list, index) => list[2]?.includes('Data received: from ' + index))", undefined, { timeout: 10_000 })
  t.equal(await page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol"), 'h2')
  t.equal(served.connections(), 1)
})
