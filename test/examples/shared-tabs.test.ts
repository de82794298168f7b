import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { BrowserContext, Page } from 'playwright-core'
import type { Session, SseSessionsOptions } from '../../lib/index.js'
import { needsChromium, openContext } from '../support/browser.js'
import { FORCE_CLOSE, range } from '../support/clients.js'
import { startFaultProxy, type FaultProxy } from '../support/fault-proxy.js'
import { matchList } from '../support/match-list.js'
import { serve, type TestServer } from '../support/server.js'
import { waitUntil } from '../support/wait.js'

const PAGE = `<!doctype html><link rel="icon" href="data:,">
<script type="module">
  import { connect } from '/bundle.js'
  const query = new URLSearchParams(location.search)
  window.start = () => {
    window.session = connect(query.get('url') ?? '', { shared: query.get('shared') ?? true })
    window.received = []
    window.numbers = []
    for (const name of ['open', 'resume', 'reset', 'disconnect', 'gap', 'close']) session.on(name, data => received.push([name, data]))
    session.on('number', n => numbers.push(n))
  }
  start()
</script>`

const read = (file: string): Buffer => readFileSync(new URL(`../../dist/client/${file}`, import.meta.url))

interface Tabs extends TestServer {
  readonly context: BrowserContext
  readonly proxy: FaultProxy
  /** Opens a tab, and waits until its session is open. */
  readonly openTab: (query?: string) => Promise<Page>
  /** The tab that has sent the newest request for a stream. */
  readonly leader: () => Page
  /** The sessions of the server that are connected. */
  readonly openSessions: Set<Session>
  /** Number of streams that are open on the server. */
  readonly streamCount: () => number
  /** The reasons of the sessions that were closed on the server. */
  readonly closeReasons: string[]
}

async function serveTabs (t: Test, options: SseSessionsOptions = {}): Promise<Tabs> {
  let streamCount = 0
  const openSessions = new Set<Session>()
  const closeReasons: string[] = []
  const served = await serve(t, { retry: 100, heartbeatInterval: 1000, ...options }, {
    fastify: FORCE_CLOSE,
    beforeRegister: app => {
      app.addHook('onRequest', async (request, reply) => {
        if (request.method !== 'GET' || !request.url.includes('/downward')) return
        streamCount++
        reply.raw.on('close', () => { streamCount-- })
      })
      app.get('/', (_request, reply) => reply.type('text/html').send(PAGE))
      for (const file of ['bundle.js', 'shared-fetch.js']) app.get(`/${file}`, (_request, reply) => reply.type('text/javascript').send(read(file)))
    }
  })
  served.sessions.addHook('onOpen', session => { openSessions.add(session) })
  served.sessions.addHook('onClose', (session, reason) => {
    openSessions.delete(session)
    closeReasons.push(reason)
  })
  const proxy = await startFaultProxy(t, served.port)
  const context = await openContext(t)
  let leader: Page | undefined
  context.on('request', request => { if (request.method() === 'GET' && request.url().includes('/downward')) leader = request.frame().page() })
  return {
    ...served,
    context,
    proxy,
    openSessions,
    closeReasons,
    streamCount: () => streamCount,
    leader: () => leader as Page,
    openTab: async (query = '') => {
      const page = await context.newPage()
      await page.goto(proxy.url + '/' + query)
      await page.waitForFunction('window.session?.state === "open"')
      return page
    }
  }
}

const waitForNumbers = (page: Page, count: number): Promise<unknown> => page.waitForFunction(`numbers.length >= ${count}`)
const waitForNumber = (page: Page, n: number): Promise<unknown> => page.waitForFunction(`numbers.at(-1) === ${n}`)

t.test('two tabs share one session and one stream, and the second one takes over when the first one is closed', needsChromium, async t => {
  const { sessions, openTab, openSessions, streamCount, closeReasons, leader } = await serveTabs(t)
  sessions.addHook('onOpen', session => { session.emit('number', 0) })
  const first = await openTab()
  await waitForNumbers(first, 1)
  const second = await openTab()
  t.equal(openSessions.size, 1)
  t.equal(streamCount(), 1)
  t.equal(leader(), first)
  const [session] = openSessions
  for (const n of range(9)) session?.emit('number', n + 1)
  for (const page of [first, second]) {
    await waitForNumber(page, 9)
    t.strictSame(await page.evaluate('numbers'), range(10).slice(page === first ? 0 : 1))
    matchList(t, await page.evaluate('received'), [['open', { resumed: false, sessionId: session?.id }]])
  }
  await first.close({ runBeforeUnload: true })
  for (const n of range(10)) session?.emit('number', n + 10)
  await waitForNumber(second, 19)
  t.strictSame(await second.evaluate('numbers'), range(20).slice(1))
  matchList(t, await second.evaluate('received'), [['open', {}]], 'the second tab has not noticed')
  t.equal(leader(), second)
  await second.close({ runBeforeUnload: true })
  await waitUntil(() => closeReasons.length > 0, 'the close of the session')
  t.strictSame(closeReasons, ['deleted'])
})

t.test('eight tabs receive each event once and in order while tabs are closed, reloaded, frozen and crash, and connections break', needsChromium, async t => {
  const { sessions, openTab, openSessions, streamCount, closeReasons, leader, proxy, context } = await serveTabs(t, { maxIdempotencyKeys: 100_000, maxResponseBytes: 2 ** 26, log: { entries: 100_000 } })
  const handled = new Map<string, number[]>()
  sessions.handle('echo', (_session, data) => {
    const [name, n] = data as [string, number]
    handled.set(name, [...handled.get(name) ?? [], n])
    return data
  })
  const live = new Set<Page>()
  const names = new Map<Page, string>()
  const openSendingTab = async (): Promise<Page> => {
    const page = await openTab()
    await startSending(page)
    return page
  }
  // Sends messages until the end of the test, without waiting for the responses.
  const startSending = async (page: Page): Promise<void> => {
    const name = `tab ${handled.size}`
    names.set(page, name)
    handled.set(name, [])
    await page.evaluate(`
      window.answers = []
      window.sent = 0
      window.sending = setInterval(() => { session.request('echo', ['${name}', sent++]).then(answer => answers.push(answer), error => answers.push(error.message)) }, 200)
    `)
    live.add(page)
  }
  for (let n = 0; n < 8; n++) await openSendingTab()
  t.equal(openSessions.size, 1)
  t.equal(streamCount(), 1)
  const [session] = openSessions as unknown as [Session]
  let sent = 0
  const ticker = setInterval(() => { session.emit('number', sent++) }, 50)
  t.teardown(() => { clearInterval(ticker) })
  /** Waits until every tab has received everything that was sent before. */
  const catchUp = async (): Promise<void> => {
    const last = sent
    await waitUntil(() => sent > last + 1, 'more events')
    for (const page of live) await page.waitForFunction(`numbers.at(-1) >= ${last}`)
  }
  const follower = (): Page => [...live].find(page => page !== leader()) as Page
  // A dialog stops everything in the tab, and in others of the same process. The command of Chromium that freezes a page has no effect
  // without a display.
  const freeze = async (page: Page): Promise<() => Promise<void>> => {
    const opened = page.waitForEvent('dialog')
    page.evaluate('alert()').catch(() => {})
    const dialog = await opened
    return async () => { await dialog.dismiss() }
  }
  const crash = async (page: Page): Promise<void> => {
    // Tabs can share a process, so all of them are lost that crash now.
    for (const tab of live) tab.once('crash', () => { live.delete(tab) })
    const devtools = await context.newCDPSession(page)
    devtools.send('Page.crash').catch(() => {})
    await waitUntil(() => !live.has(page), 'the crash')
  }
  await catchUp()

  for (const page of [leader(), follower()]) {
    live.delete(page)
    await page.close({ runBeforeUnload: true })
    await catchUp()
  }
  for (const page of [leader(), follower()]) {
    live.delete(page)
    await page.reload()
    await page.waitForFunction('window.session?.state === "open"')
    await startSending(page)
    await catchUp()
  }
  for (const page of [leader(), follower()]) {
    await crash(page)
    await catchUp()
  }
  const frozen = leader()
  const unfreeze = await freeze(frozen)
  await waitUntil(() => leader() !== frozen, 'another leader')
  for (const connection of proxy.connections) proxy.breakConnection('reset', connection)
  await unfreeze()
  await catchUp()
  await openSendingTab()
  for (const fault of ['cut', 'reset', 'half-open', 'stall'] as const) {
    for (const connection of proxy.connections) proxy.breakConnection(fault, connection)
    await catchUp()
  }

  clearInterval(ticker)
  for (const page of live) await page.evaluate('clearInterval(sending)')
  for (const page of live) {
    await waitForNumber(page, sent - 1)
    const numbers = await page.evaluate('numbers') as number[]
    t.strictSame(numbers, range(sent).slice(numbers[0]), `${names.get(page)} received each event from ${numbers[0]} to ${sent - 1} once`)
    await page.waitForFunction('answers.length === sent')
    const name = names.get(page) as string
    const count = await page.evaluate('sent') as number
    t.strictSame(await page.evaluate('answers'), range(count).map(n => [name, n]))
    t.strictSame(handled.get(name), range(count))
    const events = (await page.evaluate('received') as Array<[string]>).map(([event]) => event)
    t.strictSame(events.filter(event => ['reset', 'gap', 'close'].includes(event)), [])
  }
  t.strictSame([...openSessions], [session])
  t.strictSame(closeReasons, [])
})

t.test('tabs with another value of shared, or another URL, have a session of their own', needsChromium, async t => {
  const { openTab, openSessions, streamCount } = await serveTabs(t)
  for (const query of ['?shared=ann', '?shared=ann', '?shared=bob', '?url=/?other']) await openTab(query)
  t.equal(openSessions.size, 3)
  t.equal(streamCount(), 3)
})

t.test('one tab answers a request of the server, close() ends the session only in the last tab, and all can connect again', needsChromium, async t => {
  const { openTab, openSessions, closeReasons } = await serveTabs(t)
  const tabs = [await openTab(), await openTab(), await openTab()]
  const [session] = openSessions as unknown as [Session]
  for (const page of tabs) await page.evaluate('window.asked = 0; void session.handle("ask", () => ++asked)')
  for (let count = 0; count < 5; count++) await session.request('ask')
  const asked = await Promise.all(tabs.map(page => page.evaluate('asked'))) as number[]
  t.equal(asked.reduce((sum, count) => sum + count), 5)
  for (const [index, page] of tabs.entries()) {
    t.strictSame(closeReasons, [])
    await page.evaluate('session.close()')
    matchList(t, await page.evaluate('received'), [['open', {}], ['close', { reason: 'closed' }]])
    await session.emit('number', index).catch(() => {})
    for (const other of tabs.slice(index + 1)) await waitForNumber(other, index)
  }
  await waitUntil(() => closeReasons.length > 0, 'the close of the session')
  t.strictSame(closeReasons, ['deleted'])
  const connectAgain = async (): Promise<void> => {
    for (const page of tabs) await page.evaluate('start()')
    for (const page of tabs) await page.waitForFunction('session.state === "open"')
  }
  await connectAgain()
  const [second] = openSessions as unknown as [Session]
  second.close('logout')
  for (const page of tabs) await page.waitForFunction('session.state === "closed"')
  for (const page of tabs) matchList(t, await page.evaluate('received'), [['open', {}], ['close', { reason: 'logout' }]])
  await tabs[0]?.waitForFunction('navigator.locks.query().then(({ held, pending }) => held.length + pending.length === 0)')
  await connectAgain()
  t.equal(openSessions.size, 1)
})
