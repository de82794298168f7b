import t, { type Test } from 'tap'
import type { FastifyInstance } from 'fastify'
import type { Page } from 'playwright-core'
import sseSessions, { type Session, type Sessions } from '../../lib/index.js'
import { needsChromium, openContext } from '../support/browser.js'
import { bundleForBrowser } from '../support/bundle.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import type { ReactPage } from './support/react-page.js'
import { serve } from '../support/server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

const script = await bundleForBrowser(new URL('./support/react-page.tsx', import.meta.url))

/** Serves the page and records the requests for streams. */
function servePage (requests: string[] = []): (app: FastifyInstance) => void {
  return app => {
    app.get('/', (_request, reply) => reply.type('text/html').send('<!doctype html><link rel="icon" href="data:,"><main></main><script type="module" src="/page.js"></script>'))
    app.get('/page.js', (_request, reply) => reply.type('text/javascript').send(script))
    app.addHook('onRequest', async ({ method, url }) => {
      if (url.endsWith('/downward')) requests.push(`${method} ${url}`)
    })
  }
}

/** Opens the page and records its errors, which include the warnings of React. */
async function openPage (t: Test, url: string): Promise<{ page: Page, problems: string[] }> {
  const page = await (await openContext(t)).newPage()
  const problems: string[] = []
  page.on('pageerror', error => { problems.push(String(error)) })
  page.on('console', message => {
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) problems.push(message.text())
  })
  await page.goto(url)
  await page.waitForFunction('window.show !== undefined')
  return { page, problems }
}

const renders = async (page: Page): Promise<ReactPage['renders']> => await page.evaluate('renders') as ReactPage['renders']

t.test('under StrictMode a component opens one session, uses it, and closes it when it is unmounted', needsChromium, async t => {
  const requests: string[] = []
  const closed = deferred<string>()
  const { sessions, url } = await serve(t, {}, { beforeRegister: servePage(requests) })
  sessions.addHook('onClose', (_session, reason) => { closed.resolve(reason) })
  sessions.handle('message', session => session.emit('said', 'yes'))
  sessions.handle('shout', (_session, text) => String(text).toUpperCase())
  const { page, problems } = await openPage(t, url)
  await page.evaluate('show("")')
  await page.getByText('open undefined').waitFor()
  t.strictSame(requests, ['GET /downward'])
  t.equal(await page.evaluate('session.request("shout", "hey")'), 'HEY')
  await page.evaluate('session.send("hello")')
  await page.getByText('open yes').waitFor()
  const { sessionId, ...last } = (await renders(page)).at(-1) as ReactPage['renders'][number]
  t.strictSame(last, { state: 'open', lastEvent: { event: 'said', data: 'yes' }, said: 'yes' })
  t.equal((await sessions.find(String(sessionId)))?.connected, true)
  t.equal((await renders(page))[0]?.state, 'connecting')

  await page.evaluate('unmount()')
  t.equal(await withTimeout(closed.promise, 'the close of the session'), 'deleted')
  t.equal(await page.evaluate('session.send("late").catch(({ code }) => code)'), 'CLOSED')
  t.equal(await page.evaluate('session.subscribe("late").next().catch(({ code }) => code)'), 'CLOSED')
  t.strictSame(requests, ['GET /downward', 'DELETE /downward'])
  t.strictSame(problems, [])
})

t.test('another URL closes the session and opens a new one, without events of the old one', needsChromium, async t => {
  const closeReasons: string[] = []
  const greet = (text: string) => async (session: Session): Promise<void> => { await session.emit('said', text) }
  const { sessions, url, app } = await serve(t, { prefix: '/a' }, {
    beforeRegister: servePage(),
    afterRegister: app => app.register(sseSessions, { prefix: '/b', decorator: 'others' })
  })
  const others = app.getDecorator<Sessions>('others')
  sessions.addHook('onOpen', greet('from a')).addHook('onClose', (_session, reason) => { closeReasons.push(reason) })
  const { page, problems } = await openPage(t, url)
  await page.evaluate('show("/a")')
  await page.getByText('open from a').waitFor()
  await page.evaluate('renders.length = 0, show("/b")')
  await page.getByText('open undefined').waitFor()
  await waitUntil(() => closeReasons.length > 0, 'the close of the first session')
  t.strictSame(closeReasons, ['deleted'])
  t.equal(others.size, 1)
  const lastOpen = (await renders(page)).filter(({ state }) => state === 'open').at(-1)
  t.strictSame([lastOpen?.lastEvent, lastOpen?.said], [undefined, undefined])
  t.strictSame(problems, [])
})

t.test('after a lost connection, renders disconnected, then the same session with the events sent meanwhile', needsChromium, async t => {
  const { sessions, url, port } = await serve(t, { retry: 1, cors: true }, { beforeRegister: servePage() })
  const opened = deferred<Session>()
  sessions.addHook('onOpen', session => { opened.resolve(session) })
  sessions.addHook('onDisconnect', async session => { await session.emit('said', 'in between') })
  const proxy = await startFaultProxy(t, port)
  const { page, problems } = await openPage(t, url)
  await page.evaluate(`show("${proxy.url}")`)
  await page.getByText('open undefined').waitFor()
  proxy.setDown(true)
  await page.getByText('disconnected undefined').waitFor()
  proxy.setDown(false)
  await page.getByText('open in between').waitFor()
  const states = (await renders(page)).map(({ state }) => state)
  t.ok(states.indexOf('disconnected') > states.indexOf('open'), 'the page rendered the lost connection')
  t.strictSame(new Set((await renders(page)).map(({ sessionId }) => sessionId)), new Set([undefined, (await opened.promise).id]))
  t.strictSame(problems, [])
})

t.test('a component that Suspense hides keeps its session and receives events', needsChromium, async t => {
  const requests: string[] = []
  const { sessions, url } = await serve(t, {}, { beforeRegister: servePage(requests) })
  const { page, problems } = await openPage(t, url)
  await page.evaluate('show("")')
  await page.getByText('open undefined').waitFor()
  await page.evaluate('suspend(new Promise(resolve => { window.reveal = resolve }))')
  await page.getByText('hidden').waitFor()
  await sessions.broadcast('said', 'while hidden')
  await page.waitForFunction('received.length === 1')
  await page.evaluate('reveal()')
  await page.getByText('open while hidden').waitFor()
  await sessions.broadcast('said', 'while shown')
  await page.getByText('open while shown').waitFor()
  t.strictSame(await page.evaluate('received'), ['while hidden', 'while shown'])
  t.strictSame(requests, ['GET /downward'])

  await page.evaluate('unmount()')
  await waitUntil(() => sessions.size === 0, 'the close of the session')
  t.strictSame(requests, ['GET /downward', 'DELETE /downward'])
  t.strictSame(problems, [])
})

t.test('effects receive each event that arrives together with the welcome event', needsChromium, async t => {
  const { url } = await serve(t, {}, { beforeRegister: servePage() })
  const { page, problems } = await openPage(t, url)
  const events = ['welcome\ndata: {"sessionId":"s"}', 'said\ndata: "first"', 'said\ndata: "second"'].map(event => `event: ${event}\n\n`).join('')
  // All events are in the first chunk of the stream.
  await page.evaluate(`show("", {
    fetch: async () => new Response(new ReadableStream({
      start (controller) { controller.enqueue(new TextEncoder().encode(${JSON.stringify(events)})) }
    }), { headers: { 'content-type': 'text/event-stream' } })
  })`)
  await page.getByText('second').waitFor()
  t.strictSame(await page.evaluate('received'), ['first', 'second'])
  t.strictSame(problems, [])
})

for (const isStrict of [true, false]) {
  t.test(`Fast Refresh keeps the session, ${isStrict ? 'with' : 'without'} StrictMode`, needsChromium, async t => {
    const requests: string[] = []
    const { sessions, url } = await serve(t, {}, { beforeRegister: servePage(requests) })
    sessions.handle('shout', (_session, text) => String(text).toUpperCase())
    const { page, problems } = await openPage(t, url)
    await page.evaluate(`show("", undefined, ${isStrict})`)
    await page.getByText('open undefined').waitFor()
    const count = (await renders(page)).length
    await page.evaluate('refresh()')
    await page.waitForFunction(`renders.length > ${count}`)
    t.equal(await page.evaluate('session.request("shout", "hey")'), 'HEY')
    await sessions.broadcast('said', 'after')
    await page.getByText('open after').waitFor()
    t.strictSame(requests, ['GET /downward'])
    t.strictSame(problems, [])
  })
}

t.test('shows an event that arrives before React has rendered its session for the first time', needsChromium, async t => {
  let opened = 0
  const { sessions, url } = await serve(t, {}, { beforeRegister: servePage() })
  sessions.addHook('onOpen', async session => { await session.emit('said', `session ${++opened}`) })
  const { page, problems } = await openPage(t, url)
  await page.evaluate('show("")')
  await page.getByText('open session 1').waitFor()
  // The scheduler of React continues with a message to itself, which is delayed here.
  await page.evaluate(`
    window.delayed = []
    const { postMessage } = MessagePort.prototype
    MessagePort.prototype.postMessage = function (...args) { delayed.push(() => postMessage.apply(this, args)) }
    session.reopen()
  `)
  await page.waitForFunction('received.at(-1) === "session 2"')
  await page.evaluate('MessagePort.prototype.postMessage = postMessage, delayed.forEach(run => run())')
  await page.getByText('open session 2').waitFor()
  t.strictSame(problems, [])
})

t.test('without a URL, a component waits; then its functions stay the same, also after close and reopen', needsChromium, async t => {
  const requests: string[] = []
  const tokens: unknown[] = []
  const { sessions, url } = await serve(t, {}, {
    beforeRegister: app => {
      servePage(requests)(app)
      app.addHook('onRequest', async ({ url, headers }) => {
        // The hook also runs for each message of a batch, with the headers of the batch.
        if (headers.authorization && !url.endsWith('/batch/message')) tokens.push(headers.authorization)
      })
    }
  })
  sessions.handle('shout', (_session, text) => String(text).toUpperCase())
  const { page, problems } = await openPage(t, url)
  await page.evaluate('show(null)')
  await page.getByText('connecting undefined').waitFor()
  t.equal(await page.evaluate('session.emit("shout", "x").catch(({ code }) => code)'), 'CLOSED')
  const runs = await page.evaluate('effectRuns')
  await page.evaluate('show("", () => ({ headers: { authorization: "one" } }))')
  await page.getByText('open undefined').waitFor()
  await page.evaluate('show("", () => ({ headers: { authorization: "two" } }))')
  t.equal(await page.evaluate('session.request("shout", "hey")'), 'HEY')
  t.strictSame(tokens, ['one', 'two'])
  await sessions.broadcast('said', 'first')
  await page.getByText('open first').waitFor()
  await page.evaluate('session.close()')
  await page.getByText('closed first').waitFor()
  await page.evaluate('session.reopen()')
  await page.getByText('open undefined').waitFor()
  await sessions.broadcast('said', 'second')
  await page.getByText('open second').waitFor()
  t.strictSame(await page.evaluate('received'), ['first', 'second'], 'the listeners of effects stay')
  t.equal(await page.evaluate('effectRuns'), runs)
  t.equal(requests.filter(request => request === 'GET /downward').length, 2)
  await page.evaluate('show(null)')
  await page.getByText('connecting undefined').waitFor()
  await waitUntil(() => sessions.size === 0, 'the close of the session')
  t.strictSame(problems, [])
})
