import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { Page } from 'playwright-core'
import { launchChromium, needsChromium } from '../support/browser.js'
import { forced } from '../support/clients.js'
import { faultProxy } from '../support/proxy.js'
import { serve, type Served } from '../support/server.js'
import { until } from '../support/wait.js'

const PAGE = `<!doctype html><link rel="icon" href="data:,">
<script type="module">
  import { connect } from '/bundle.js'
  window.session = connect('')
  window.heard = []
  for (const name of ['open', 'resume', 'reset', 'disconnect', 'gap', 'close', 'message']) {
    session.on(name, data => heard.push([name, data]))
  }
</script>`

interface Opened extends Served {
  readonly page: Page
  readonly closed: string[]
  readonly strike: () => void
}

/** Opens a page that has nothing but the bundle as shipped. */
async function openPage (t: Test, retry = 1): Promise<Opened> {
  const closed: string[] = []
  const served = await serve(t, { retry }, {
    fastify: forced,
    before: app => {
      app.get('/', (_request, reply) => reply.type('text/html').send(PAGE))
      app.get('/elsewhere', (_request, reply) => reply.type('text/html').send('<!doctype html>'))
      app.get('/bundle.js', (_request, reply) => reply.type('text/javascript').send(readFileSync(new URL('../../dist/client/bundle.js', import.meta.url))))
    }
  })
  served.sessions.addHook('onClose', (_session, reason) => { closed.push(reason) })
  const proxy = await faultProxy(t, served.port)
  const page = await (await launchChromium(t)).newPage()
  await page.goto(proxy.url)
  await page.waitForFunction('window.session?.state === "open"')
  return { ...served, page, closed, strike: () => { for (const { client } of proxy.connections) client.destroy() } }
}

t.test('the bundle as shipped talks both ways in Chromium, and goes on after a lost connection', needsChromium, async t => {
  const { sessions, page, strike } = await openPage(t)
  sessions.handle('add', (_session, data) => (data as number[]).reduce((sum, n) => sum + n))
  t.equal(await page.evaluate('session.request("add", [1, 2])'), 3)
  sessions.addHook('onDisconnect', session => session.send('meanwhile'))
  strike()
  await page.waitForFunction('heard.length === 4')
  t.match(await page.evaluate('heard'), [['open'], ['disconnect'], ['resume', { resumed: true }], ['message', 'meanwhile']])
  t.equal(await page.evaluate('session.request("add", [3, 4])'), 7)
})

t.test('a page that is closed ends its session at the server', needsChromium, async t => {
  const { page, closed } = await openPage(t)
  await page.close({ runBeforeUnload: true })
  await until(() => closed.length > 0, 'the end of the session')
  t.strictSame(closed, ['deleted'])
})

t.test('a page that is left and restored as it was has its session still, and goes on', needsChromium, async t => {
  const { page, closed, sessions } = await openPage(t)
  const id = await page.evaluate('session.sessionId') as string
  await page.evaluate('addEventListener("pageshow", ({ persisted }) => heard.push(["pageshow", persisted]))')
  await page.goto(new URL('/elsewhere', page.url()).href)
  await (await sessions.find(id))?.send('meanwhile')
  await page.evaluate('history.back()')
  // By its stream as it was frozen, or by the new one.
  await page.waitForFunction('["resume", "message"].every(event => window.heard?.some(([name]) => name === event))')
  t.equal(await page.evaluate('session.sessionId'), id)
  t.equal((await sessions.find(id))?.connected, true)
  t.strictSame(closed, [])
  const heard = await page.evaluate('heard') as Array<[string, unknown]>
  t.match(heard.find(([name]) => name === 'pageshow'), ['pageshow', true])
  t.strictSame(heard.filter(([name]) => name === 'message'), [['message', 'meanwhile']])
})

t.test('a page that is woken does not wait for its next attempt', needsChromium, async t => {
  // Longer than the page is waited for.
  const { page, sessions, strike } = await openPage(t, 100_000)
  for (const wake of ['dispatchEvent(new Event("online"))', 'document.dispatchEvent(new Event("visibilitychange"))']) {
    await (await sessions.find(await page.evaluate('session.sessionId') as string))?.send(1)
    await page.evaluate('heard.length = 0')
    strike()
    await page.waitForFunction('heard.some(([name]) => name === "disconnect")')
    await page.evaluate(wake)
    await page.waitForFunction('session.state === "open"')
  }
  t.equal(sessions.size, 1)
})
