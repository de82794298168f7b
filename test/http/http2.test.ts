import { once } from 'node:events'
import { connect, constants } from 'node:http2'
import { createParser } from 'eventsource-parser'
import t, { type Test } from 'tap'
import { needsChromium, openContext } from '../support/browser.js'
import { requestHttp2, connectHttp2, http2Options, type Http2Response } from '../support/http2.js'
import { serve, type TestServer, type ServeOptions } from '../support/server.js'
import { waitUntil, withTimeout } from '../support/wait.js'

/** Serves over HTTP/2 with TLS. `connections` counts the connections on which streams were requested. */
async function serveHttp2 (t: Test, { beforeRegister: before, ...more }: ServeOptions = {}): Promise<TestServer & { readonly connections: () => number }> {
  const ports = new Set<number | undefined>()
  const served = await serve(t, {}, {
    fastify: http2Options,
    beforeRegister: async app => {
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
  const client = connectHttp2(t, served)
  const stream = await requestHttp2(client, { ':path': '/downward', accept: 'text/event-stream' })
  t.match(stream.headers, { ':status': 200, 'content-type': 'text/event-stream; charset=utf-8', 'x-accel-buffering': 'no' })
  t.notOk('connection' in stream.headers || 'transfer-encoding' in stream.headers, 'HTTP/2 forbids them')
  const id = String(stream.headers['x-session-id'])
  const post = (text: string): Promise<Http2Response> =>
    requestHttp2(client, { ':method': 'POST', ':path': '/upward', 'content-type': 'application/json', 'x-session-id': id }, { body: JSON.stringify({ text }) })
  t.match((await post('one')).headers, { ':status': 201, 'x-session-connected': 'true' })
  await waitUntil(() => stream.text().includes('Data received: one'), 'the echo')
  stream.cancel()
  await waitUntil(async () => (await sessions.find(id))?.connected === false, 'the disconnect')
  t.match((await post('two')).headers, { ':status': 201, 'x-session-connected': 'false' })
  const resumed = await requestHttp2(client, { ':path': '/downward', 'x-session-id': id })
  await waitUntil(() => resumed.text().includes('Data received: two'), 'the missed event')
  t.strictSame(parseNames(resumed.text()), ['welcome', 'message'])
  const replacing = await requestHttp2(client, { ':path': '/downward', 'x-session-id': id })
  await withTimeout(resumed.ended, 'the end of the replaced stream')
  t.match((await requestHttp2(client, { ':method': 'DELETE', ':path': '/downward', 'x-session-id': id })).headers, { ':status': 204 })
  await withTimeout(replacing.ended, 'the end of the stream')
  t.strictSame(parseNames(replacing.text()), ['welcome', 'close'])
  t.equal((await requestHttp2(client, { ':path': '/downward', 'last-event-id': 'closed' })).headers[':status'], 204)
  t.equal(served.connections(), 1)
})

t.test('a stream that an HTTP/2 client resets without an error is lost', async t => {
  const { sessions, url } = await serve(t, {}, { fastify: { http2: true } as object })
  const client = connect(url)
  t.teardown(() => { client.destroy() })
  await once(client, 'connect')
  const closed = Array.from({ length: 20 }, async () => {
    const stream = client.request({ ':path': '/downward' })
    stream.on('error', () => {}).resume()
    setTimeout(() => { stream.close(constants.NGHTTP2_NO_ERROR) }, 0)
    await once(stream, 'close')
  })
  await withTimeout(Promise.all(closed), 'the resets')
  // The server handles this later request after all of those before.
  const last = client.request({ ':path': '/downward', 'last-event-id': 'closed' })
  await once(last.resume(), 'close')
  t.ok(sessions.size > 0)
  await waitUntil(() => sessions.stats().streams === 0, 'the loss of all streams')
})

t.test('an HTTP/2 client that stops reading receives all events when it reads again', async t => {
  const served = await serveHttp2(t)
  const client = connectHttp2(t, served)
  const stream = await requestHttp2(client, { ':path': '/downward' }, { stalled: true })
  const session = await served.sessions.find(String(stream.headers['x-session-id']))
  // More than the HTTP/2 flow-control windows and the socket buffers take, and less than the log keeps.
  const long = 'x'.repeat(9_000)
  for (let i = 0; i < 100; i++) await session?.emit('portion', { i, long })
  stream.read()
  await session?.emit('last', null)
  await waitUntil(() => stream.text().includes('event: last'), 'the last event')
  t.equal(parseNames(stream.text()).filter(name => name === 'portion').length, 100)
})

t.test('twelve EventSources of a page share one HTTP/2 connection', needsChromium, async t => {
  const served = await serveHttp2(t, {
    beforeRegister: app => app.get('/', async (_request, reply) => reply.type('text/html').send('<!doctype html><title>twelve</title>'))
  })
  const { sessions, url } = served
  const page = await (await openContext(t, { ignoreHTTPSErrors: true })).newPage()
  await page.goto(url)
  await page.evaluate(`
    window.got = []
    window.sources = Array.from({ length: 12 }, (_, index) => {
      const source = new EventSource('/downward')
      got.push([])
      for (const name of ['welcome', 'news', 'message']) source.addEventListener(name, event => { got[index].push(name === 'welcome' ? JSON.parse(event.data).sessionId : name + ' ' + event.data) })
      return source
    })`)
  await page.waitForFunction('got.every(list => list.length === 1)')
  t.equal(sessions.stats().streams, 12)
  const ids = await page.evaluate('got.map(([id]) => id)') as string[]
  t.equal(new Set(ids).size, 12)
  await sessions.broadcast('news', 1)
  await page.waitForFunction("got.every(list => list[1] === 'news 1')")
  const statuses = await page.evaluate(`Promise.all(got.map(([id], index) => fetch('/upward', {
    method: 'POST', headers: { 'content-type': 'application/json', 'x-session-id': id }, body: JSON.stringify({ text: 'from ' + index })
  }).then(({ status }) => status)))`)
  t.strictSame(statuses, Array(12).fill(201), 'messages are posted over the same connection')
  await page.waitForFunction("got.every((list, index) => list[2]?.includes('Data received: from ' + index))")
  t.equal(await page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol"), 'h2')
  t.equal(served.connections(), 1)
})
