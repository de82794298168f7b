import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { Page } from 'playwright-core'
import { launchChromium, needsChromium } from '../support/browser.js'
import { FORCE_CLOSE } from '../support/clients.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { serve, type TestServer } from '../support/server.js'
import { waitUntil } from '../support/wait.js'

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
}

/** Opens a page that loads only the bundle. */
async function openPage (t: Test, retry = 1): Promise<OpenedPage> {
  const closeReasons: string[] = []
  const served = await serve(t, { retry }, {
    fastify: FORCE_CLOSE,
    beforeRegister: app => {
      app.get('/', (_request, reply) => reply.type('text/html').send(PAGE))
      app.get('/other', (_request, reply) => reply.type('text/html').send('<!doctype html>'))
      app.get('/bundle.js', (_request, reply) => reply.type('text/javascript').send(readFileSync(new URL('../../dist/client/bundle.js', import.meta.url))))
    }
  })
  served.sessions.addHook('onClose', (_session, reason) => { closeReasons.push(reason) })
  const proxy = await startFaultProxy(t, served.port)
  const page = await (await launchChromium(t)).newPage()
  await page.goto(proxy.url)
  await page.waitForFunction('window.session?.state === "open"')
  return { ...served, page, closeReasons, disconnect: () => { for (const { client } of proxy.connections) client.destroy() } }
}

t.test('the bundle sends and receives messages in Chromium, and resumes after a lost connection', needsChromium, async t => {
  const { sessions, page, disconnect } = await openPage(t)
  sessions.handle('add', (_session, data) => (data as number[]).reduce((sum, n) => sum + n))
  t.equal(await page.evaluate('session.request("add", [1, 2])'), 3)
  sessions.addHook('onDisconnect', session => session.send('in between'))
  disconnect()
  await page.waitForFunction('received.length === 4')
  t.match(await page.evaluate('received'), [['open'], ['disconnect'], ['resume', { resumed: true }], ['message', 'in between']])
  t.equal(await page.evaluate('session.request("add", [3, 4])'), 7)
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
  // Longer than `waitForFunction` waits.
  const { page, sessions, disconnect } = await openPage(t, 100_000)
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
