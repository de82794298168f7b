import t, { type Test } from 'tap'
import type { FastifyInstance } from 'fastify'
import type { Page } from 'playwright-core'
import sseSessions, { type Session, type Sessions } from '../../lib/index.js'
import { needsChromium, openContext } from '../support/browser.js'
import { bundleForBrowser } from '../support/bundle.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { serve } from '../support/server.js'
import { waitUntil } from '../support/wait.js'

const FRAMEWORKS = { Vue: './support/vue-page.ts', Svelte: './support/svelte-page.ts' }
const scripts = new Map<string, string>()

/** Serves the page of a framework and records the requests for streams. */
async function servePage (framework: keyof typeof FRAMEWORKS, requests: string[] = []): Promise<(app: FastifyInstance) => void> {
  const script = scripts.get(framework) ?? await bundleForBrowser(new URL(FRAMEWORKS[framework], import.meta.url))
  scripts.set(framework, script)
  return app => {
    app.get('/', (_request, reply) => reply.type('text/html').send('<!doctype html><link rel="icon" href="data:,"><main></main><script type="module" src="/page.js"></script>'))
    app.get('/page.js', (_request, reply) => reply.type('text/javascript').send(script))
    app.addHook('onRequest', async ({ method, url, headers }) => {
      if (url.endsWith('/downward') || url.endsWith('/upward')) requests.push(`${method} ${url} ${String(headers['x-token'])}`)
    })
  }
}

/** Opens the page and records its errors, which include the warnings of the framework. */
async function openPage (t: Test, url: string): Promise<{ page: Page, problems: string[] }> {
  const page = await (await openContext(t)).newPage()
  const problems: string[] = []
  page.on('pageerror', error => { problems.push(String(error)) })
  page.on('console', message => {
    if (['error', 'warning'].includes(message.type()) && !message.text().startsWith('Failed to load resource')) problems.push(message.text())
  })
  await page.goto(url)
  await page.waitForFunction('window.show !== undefined')
  return { page, problems }
}

for (const framework of Object.keys(FRAMEWORKS) as Array<keyof typeof FRAMEWORKS>) {
  t.test(`${framework}: a component waits for a URL, opens one session, uses it, and closes it when it is unmounted`, needsChromium, async t => {
    const requests: string[] = []
    const { sessions, url } = await serve(t, {}, { beforeRegister: await servePage(framework, requests) })
    sessions.handle('message', session => session.emit('said', 'yes'))
    sessions.handle('shout', (_session, text) => String(text).toUpperCase())
    const { page, problems } = await openPage(t, url)
    await page.evaluate('show(null)')
    await page.getByText('connecting').waitFor()
    t.equal(await page.evaluate('session.send("early").catch(({ code }) => code)'), 'CLOSED')
    await page.evaluate('show("")')
    await page.getByText('open').waitFor()
    t.equal((await sessions.find(await page.locator('p').getAttribute('id') ?? ''))?.connected, true)
    t.strictSame(requests, ['GET /downward first'])
    await page.evaluate('token = "second"')
    t.equal(await page.evaluate('session.request("shout", "hey")'), 'HEY')
    t.equal(requests.pop(), 'POST /upward second', 'the headers are current')
    await page.evaluate('session.send("hello")')
    await page.getByText('open yes said').waitFor()
    requests.pop()

    await page.evaluate('session.reopen()')
    await page.waitForFunction('document.querySelector("p").innerText.trim() === "open"')
    t.strictSame(requests.map(request => request.split(' ')[0]).sort(), ['DELETE', 'GET', 'GET'])
    await page.evaluate('session.send("hello")')
    await page.getByText('open yes said').waitFor()
    t.strictSame(await page.evaluate('received'), ['yes', 'yes'], 'the listener stays')

    await page.evaluate('unmount()')
    await waitUntil(() => sessions.size === 0, 'the close of the session')
    t.equal(await page.evaluate('session.send("late").catch(({ code }) => code)'), 'CLOSED')
    t.strictSame(problems, [])
  })

  t.test(`${framework}: another URL closes the session and opens a new one, without events of the old one`, needsChromium, async t => {
    const closeReasons: string[] = []
    const { sessions, url, app } = await serve(t, { prefix: '/a' }, {
      beforeRegister: await servePage(framework),
      afterRegister: app => app.register(sseSessions, { prefix: '/b', decorator: 'others' })
    })
    const others = app.getDecorator<Sessions>('others')
    sessions.addHook('onOpen', async (session: Session) => { await session.emit('said', 'from a') }).addHook('onClose', (_session, reason) => { closeReasons.push(reason) })
    const { page, problems } = await openPage(t, url)
    await page.evaluate('show("/a")')
    await page.getByText('open from a said').waitFor()
    await page.evaluate('texts.length = 0, show("/b")')
    await page.waitForFunction('document.querySelector("p").innerText.trim() === "open"')
    await waitUntil(() => closeReasons.length > 0, 'the close of the first session')
    t.strictSame(closeReasons, ['deleted'])
    t.equal(others.size, 1)
    await page.evaluate('show(null)')
    await waitUntil(() => others.size === 0, 'the close of the second session')
    await page.getByText('connecting').waitFor()
    t.strictSame(problems, [])
  })

  t.test(`${framework}: after a lost connection, shows disconnected, then the same session with the events sent meanwhile`, needsChromium, async t => {
    const { sessions, url, port } = await serve(t, { retry: 1, cors: true }, { beforeRegister: await servePage(framework) })
    sessions.addHook('onDisconnect', async session => { await session.emit('said', 'in between') })
    const proxy = await startFaultProxy(t, port)
    const { page, problems } = await openPage(t, url)
    await page.evaluate(`show("${proxy.url}")`)
    await page.getByText('open').waitFor()
    const id = await page.locator('p').getAttribute('id')
    proxy.setDown(true)
    await page.getByText('disconnected').waitFor()
    proxy.setDown(false)
    await page.getByText('open in between').waitFor()
    t.equal(await page.locator('p').getAttribute('id'), id)
    t.strictSame(problems, [])
  })
}
