import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import type { FastifyInstance } from 'fastify'
import type { Page } from 'playwright-core'
import type { SseSessionsOptions } from '../../lib/index.js'
import { needsChromium, openContext } from '../support/browser.js'
import { FORCE_CLOSE, range } from '../support/clients.js'
import { startFaultProxy, type FaultProxy } from '../support/fault-proxy.js'
import { matchList } from '../support/match-list.js'
import { serve, type TestServer } from '../support/server.js'
import { deferred, waitUntil } from '../support/wait.js'

const PAGE = `<!doctype html><link rel="icon" href="data:,">
<script type="module">
  import { connect } from '/bundle.js'
  window.session = connect('')
  window.received = []
  for (const name of ['open', 'resume', 'reset', 'disconnect', 'gap', 'close', 'message']) {
    session.on(name, data => received.push([name, data]))
  }
</script>`

interface OpenedPage extends TestServer {
  readonly page: Page
  /** The reasons of the sessions that were closed on the server. */
  readonly closeReasons: string[]
  /** Closes all connections of the page. */
  readonly disconnect: () => void
  readonly proxy: FaultProxy
}

/** Opens a page that loads only the bundle. */
async function openPage (t: Test, options: SseSessionsOptions = {}, addRoutes: (app: FastifyInstance) => void = () => {}): Promise<OpenedPage> {
  const closeReasons: string[] = []
  const served = await serve(t, { retry: 1, ...options }, {
    fastify: FORCE_CLOSE,
    beforeRegister: app => {
      addRoutes(app)
      app.get('/', (_request, reply) => reply.type('text/html').send(PAGE))
      app.get('/other', (_request, reply) => reply.type('text/html').send('<!doctype html>'))
      app.get('/bundle.js', (_request, reply) => reply.type('text/javascript').send(readFileSync(new URL('../../dist/client/bundle.js', import.meta.url))))
    }
  })
  served.sessions.addHook('onClose', (_session, reason) => { closeReasons.push(reason) })
  const proxy = await startFaultProxy(t, served.port)
  const page = await (await openContext(t)).newPage()
  await page.goto(proxy.url)
  await page.waitForFunction('window.session?.state === "open"')
  return { ...served, page, closeReasons, proxy, disconnect: () => { for (const { client } of proxy.connections) client.destroy() } }
}

t.test('the bundle sends and receives messages in Chromium, and resumes after a lost connection', needsChromium, async t => {
  const { sessions, page, disconnect } = await openPage(t)
  sessions.handle('add', (_session, data) => (data as number[]).reduce((sum, n) => sum + n))
  t.equal(await page.evaluate('session.request("add", [1, 2])'), 3)
  sessions.addHook('onDisconnect', session => session.send('in between'))
  disconnect()
  await page.waitForFunction('received.length === 4')
  matchList(t, await page.evaluate('received'), [['open', {}], ['disconnect', {}], ['resume', { resumed: true }], ['message', 'in between']])
  t.equal(await page.evaluate('session.request("add", [3, 4])'), 7)
})

t.test('a page that cannot load the module for shared sessions opens a session of its own', needsChromium, async t => {
  let requests = 0
  const { page } = await openPage(t, {}, app => {
    app.get('/shared-fetch.js', (_request, reply) => {
      requests++
      return reply.code(503).send()
    })
  })
  await page.evaluate(`
    import('/bundle.js').then(({ connect }) => { window.shared = connect('', { shared: true }) })
    undefined
  `)
  await page.waitForFunction('window.shared?.state === "open"')
  t.equal(requests, 1)
})

t.test('a page reads the values of a handler over a lost connection, and stops handlers with break and with a signal', needsChromium, async t => {
  const { sessions, page, disconnect } = await openPage(t)
  const resumed = deferred()
  const stopped: unknown[] = []
  sessions
    .handle('count', async function * () {
      for (const n of range(50)) {
        if (n === 25) await resumed.promise
        yield n
      }
    })
    .handle('endless', async function * (_session, name, { signal }) {
      try {
        yield 1
        await once(signal, 'abort')
      } finally {
        stopped.push(name)
      }
    })
  await page.evaluate(`
    window.values = []
    window.reading = (async () => { for await (const value of session.subscribe('count')) values.push(value) })()
    undefined
  `)
  await page.waitForFunction('values.length === 25')
  disconnect()
  await page.waitForFunction('received.some(([name]) => name === "resume")')
  resumed.resolve()
  t.strictSame(await page.evaluate('reading.then(() => values)'), range(50))

  await page.evaluate('(async () => { for await (const value of session.subscribe("endless", "break")) break })()')
  t.equal(await page.evaluate(`(async () => {
    const controller = new AbortController()
    try {
      for await (const value of session.subscribe('endless', 'signal', { signal: controller.signal })) controller.abort()
    } catch (error) {
      return error.name
    }
  })()`), 'AbortError')
  await waitUntil(() => stopped.length === 2, 'the end of both handlers')
  t.strictSame(stopped, ['break', 'signal'])
})

t.test('closing the page closes the session on the server', needsChromium, async t => {
  const { page, closeReasons } = await openPage(t)
  await page.close({ runBeforeUnload: true })
  await waitUntil(() => closeReasons.length > 0, 'the close of the session')
  t.strictSame(closeReasons, ['deleted'])
})

t.test('a page that is restored from the back/forward cache resumes its session', needsChromium, async t => {
  const { page, closeReasons, sessions } = await openPage(t)
  const id = await page.evaluate('session.sessionId') as string
  await page.evaluate('addEventListener("pageshow", ({ persisted }) => received.push(["pageshow", persisted]))')
  await page.goto(new URL('/other', page.url()).href)
  await (await sessions.find(id))?.send('in between')
  await page.evaluate('history.back()')
  // The message arrives on the old stream, which was frozen, or on the new one.
  await page.waitForFunction('["resume", "message"].every(event => window.received?.some(([name]) => name === event))')
  t.equal(await page.evaluate('session.sessionId'), id)
  t.equal((await sessions.find(id))?.connected, true)
  t.strictSame(closeReasons, [])
  const received = await page.evaluate('received') as Array<[string, unknown]>
  t.match(received.find(([name]) => name === 'pageshow'), ['pageshow', true])
  t.strictSame(received.filter(([name]) => name === 'message'), [['message', 'in between']])
})

t.test('online and visibilitychange end the delay before the next attempt to connect', needsChromium, async t => {
  // The delay is longer than `waitForFunction` waits.
  const { page, sessions, disconnect } = await openPage(t, { retry: 100_000 })
  for (const script of ['dispatchEvent(new Event("online"))', 'document.dispatchEvent(new Event("visibilitychange"))']) {
    await (await sessions.find(await page.evaluate('session.sessionId') as string))?.send(1)
    await page.evaluate('received.length = 0')
    disconnect()
    await page.waitForFunction('received.some(([name]) => name === "disconnect")')
    await page.evaluate(script)
    await page.waitForFunction('session.state === "open"')
  }
  t.equal(sessions.size, 1)
})

t.test('a message that the browser could not send, because it was offline, is sent to the next session', needsChromium, async t => {
  const { sessions, page, disconnect } = await openPage(t, { resumeTimeout: 1 })
  sessions.handle('id', ({ id }) => id)
  const lostId = await page.evaluate('session.sessionId')
  await page.context().setOffline(true)
  const failed = page.waitForEvent('requestfailed', request => request.method() === 'POST')
  await page.evaluate('void session.request("id").then(id => received.push(["id", id]), ({ code }) => received.push(["id", code]))')
  // The stream that was open stays open in Chromium, as on a phone that has not noticed yet that its network is gone.
  await failed
  disconnect()
  await page.waitForFunction('received.some(([name]) => name === "disconnect")')
  await waitUntil(() => sessions.size === 0, 'the end of the session')
  await page.context().setOffline(false)
  await page.waitForFunction('received.some(([name]) => name === "id")')
  const id = await page.evaluate('session.sessionId')
  t.not(id, lostId)
  matchList(t, await page.evaluate('received'), [['open', {}], ['disconnect', {}], ['reset', {}], ['id', id]])
})

// The client can only treat a message as not sent if the browser says so. When this test fails, Chromium has begun to.
t.test('Chromium reports a request that was refused in the same way as one that the server received before it ended', needsChromium, async t => {
  const outcomes: unknown[] = []
  for (const isReceived of [false, true]) {
    const server = createServer((request, response) => {
      if (request.method === 'GET') response.setHeader('content-type', 'text/html').end('<!doctype html><link rel="icon" href="data:,">')
      else request.resume().on('end', end)
    })
    const end = (): void => {
      server.close()
      server.closeAllConnections()
    }
    await once(server.listen(0, '127.0.0.1'), 'listening')
    t.teardown(end)
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
    const page = await (await openContext(t)).newPage()
    await page.goto(url)
    if (!isReceived) end()
    outcomes.push(await page.evaluate(`(async () => {
      performance.clearResourceTimings()
      const error = await fetch('/message', { method: 'POST', body: '{}' }).catch(error => error)
      const { name, navigationId, ...entry } = performance.getEntriesByType('resource')[0]?.toJSON() ?? {}
      // Times and sizes differ, so only whether they are above 0 is compared.
      for (const [key, value] of Object.entries(entry)) if (typeof value === 'number') entry[key] = value > 0
      return { name: error.name, message: error.message, cause: error.cause, entry }
    })()`))
  }
  const [refused, received] = outcomes
  t.match(refused, { name: 'TypeError', message: 'Failed to fetch' })
  t.strictSame(refused, received)
})

for (const [title, fallback] of [
  ['the offline page of a service worker', 'new Response("<h1>offline</h1>", { headers: { "content-type": "text/html" } })'],
  // eslint-disable-next-line no-template-curly-in-string -- a template of the worker
  ['an old stream that a service worker has stored', 'new Response(`event: welcome\\nid: ${id}.0\\ndata: {"sessionId":"${id}","resumed":false}\\n\\ndata: "old"\\n\\n`, { headers: { "content-type": "text/event-stream" } })']
] as const) {
  t.test(`resumes after ${title}`, needsChromium, async t => {
    const worker = `let id
      addEventListener('message', ({ data }) => { id = data })
      addEventListener('install', () => skipWaiting())
      addEventListener('activate', event => event.waitUntil(clients.claim()))
      addEventListener('fetch', event => event.respondWith(fetch(event.request).catch(() => ${fallback})))`
    const { page, sessions, proxy } = await openPage(t, { retry: 100 }, app => { app.get('/worker.js', (_request, reply) => reply.type('text/javascript').send(worker)) })
    const id = await page.evaluate(`(async () => {
      await navigator.serviceWorker.register('/worker.js')
      if (!navigator.serviceWorker.controller) await new Promise(resolve => navigator.serviceWorker.addEventListener('controllerchange', resolve))
      navigator.serviceWorker.controller.postMessage(session.sessionId)
      session.on('error', ({ code }) => received.push(['error', code]))
      return session.sessionId
    })()`) as string
    proxy.setDown(true)
    await page.waitForFunction('received.some(([name]) => name === "error")')
    proxy.setDown(false)
    await page.waitForFunction('session.state === "open"')
    await (await sessions.find(id))?.send('new')
    await page.waitForFunction('received.some(([name]) => name === "message")')
    const received = await page.evaluate('received') as Array<[string, unknown]>
    t.strictSame([...new Set(received.map(([name]) => name))], ['open', 'disconnect', 'error', 'resume', 'message'])
    t.ok(received.some(([name, code]) => name === 'error' && code === 'NOT_A_STREAM'))
    t.strictSame(received.at(-1), ['message', 'new'])
  })
}

t.test('a Content-Security-Policy that blocks the requests closes the session at once', needsChromium, async t => {
  const { page } = await openPage(t, {}, app => {
    app.get('/strict', (_request, reply) => reply.type('text/html').header('content-security-policy', "connect-src 'none'").send(PAGE))
  })
  await page.goto(new URL('/strict', page.url()).href)
  await page.waitForFunction('window.session?.state === "closed"')
  matchList(t, await page.evaluate('received'), [['close', { reason: 'REQUEST_INVALID' }]])
})
