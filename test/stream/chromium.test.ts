import t, { type Test } from 'tap'
import type { FastifyInstance } from 'fastify'
import type { Page } from 'playwright-core'
import { needsChromium, openContext } from '../support/browser.js'
import { startFaultProxy, type Fault } from '../support/fault-proxy.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { serve } from '../support/server.js'
import { withTimeout } from '../support/wait.js'

/** Serves an empty page, so that scripts run in the origin of the app. Its connection is closed, so no idle connection stays open. */
const servePage = (app: FastifyInstance): void => {
  app.get('/', async (_request, reply) => {
    return reply.type('text/html').header('connection', 'close').send('<!doctype html><link rel="icon" href="data:,">')
  })
}

async function openPage (t: Test, url: string): Promise<Page> {
  const page = await (await openContext(t)).newPage()
  await page.goto(url)
  return page
}

/** Opens a native EventSource in the page. The page collects its events in `received`. */
async function openEventSource (page: Page): Promise<void> {
  await page.evaluate(`
    window.received = []
    window.source = new EventSource('/downward')
    for (const type of ['welcome', 'message', 'gap', 'close']) {
      source.addEventListener(type, ({ data }) => received.push({ type, data: JSON.parse(data) }))
    }
  `)
}

t.test('Chromium\'s EventSource receives every event once and in order over broken connections', needsChromium, async t => {
  const total = 3000
  const next = createRandom(chooseSeed(t))
  const faults: Fault[] = ['cut', 'reset', 'half-open']
  const { sessions, port } = await serve(t, { retry: 1, log: { entries: total } }, { afterRegister: servePage })
  let isArmed = false
  const proxy = await startFaultProxy(t, port, connection => {
    return isArmed && connection <= 40 ? { fault: faults[connection % 3] as Fault, afterBytes: 100 + Math.floor(next() * 20_000) } : undefined
  })
  sessions.addHook('onOpen', async session => {
    for (let n = 0; n < total; n++) await session.send({ n })
  })
  const page = await openPage(t, proxy.url)
  isArmed = true
  await openEventSource(page)
  await page.waitForFunction('received.filter(({ type }) => type === "message").length >= ' + total)
  const received = await page.evaluate('received') as Array<{ type: string, data: { n: number, resumed?: boolean } }>
  const numbers = received.filter(({ type }) => type === 'message').map(({ data }) => data.n)
  t.strictSame(numbers, Array.from({ length: total }, (_, n) => n))
  t.equal(received.some(({ type }) => type === 'gap'), false)
  t.ok(received.filter(({ data }) => data.resumed === true).length > 2, 'sessions were resumed after broken connections')
})

t.test('Chromium\'s EventSource stops after exactly one more request when the session is closed', needsChromium, async t => {
  const requests: Array<string | undefined> = []
  const { sessions, url } = await serve(t, { retry: 1 }, {
    beforeRegister: app => {
      servePage(app)
      app.addHook('onRequest', async request => {
        if (request.url === '/downward') requests.push(request.headers['last-event-id']?.toString())
      })
    }
  })
  const page = await openPage(t, url)
  await openEventSource(page)
  await page.waitForFunction('received.length === 1')
  const [{ data: { sessionId } }] = await page.evaluate('received') as [{ data: { sessionId: string } }]
  await (await sessions.find(sessionId))?.send('last words')
  await (await sessions.find(sessionId))?.close('bye')
  await withTimeout(page.waitForFunction('source.readyState === EventSource.CLOSED'), 'the EventSource to stop')
  t.strictSame((await page.evaluate('received') as unknown[]).slice(1), [
    { type: 'message', data: 'last words' },
    { type: 'close', data: { reason: 'bye' } }
  ])
  t.strictSame(requests, [undefined, 'closed'])
})
