import t, { type Test } from 'tap'
import type { ClientSession } from '../../lib/client/index.js'
import type { Session, Sessions, SseSessionsOptions } from '../../lib/index.js'
import { FORCE_CLOSE, range, recordEvents, waitForEvent } from '../support/clients.js'
import { fakeBrowser, type FakeBrowser, type FakeTab } from '../support/fake-browser.js'
import { serve } from '../support/server.js'
import { waitUntil, withTimeout } from '../support/wait.js'

interface SharedServer extends FakeBrowser {
  readonly url: string
  readonly sessions: Sessions
  readonly openSessions: Set<Session>
  readonly closeReasons: string[]
  /** Opens a tab with a session. Resolves when the session is open. */
  readonly openSession: () => Promise<OpenTab>
}

interface OpenTab {
  readonly tab: FakeTab
  readonly session: ClientSession
  /** The events `number` that the tab has received. */
  readonly numbers: number[]
  readonly events: Array<[event: string, data: unknown]>
}

/** Starts a server, and a browser whose tabs share a session. */
async function serveShared (t: Test, options: SseSessionsOptions = {}): Promise<SharedServer> {
  const { sessions, url } = await serve(t, { retry: [1, 2], ...options }, { fastify: FORCE_CLOSE })
  // After the server, so that the tabs are closed before it.
  const browser = fakeBrowser(t)
  const openSessions = new Set<Session>()
  const closeReasons: string[] = []
  sessions.addHook('onOpen', session => { openSessions.add(session) })
  sessions.addHook('onClose', (session, reason) => {
    openSessions.delete(session)
    closeReasons.push(reason)
  })
  return {
    ...browser,
    url,
    sessions,
    openSessions,
    closeReasons,
    openSession: async () => {
      const tab = browser.openTab()
      const opened = openIn(tab, url)
      await waitForEvent(opened.session, 'open')
      return opened
    }
  }
}

function openIn (tab: FakeTab, url: string): OpenTab {
  const session = tab.connect(url)
  const numbers: number[] = []
  session.on('number', n => { numbers.push(n as number) })
  return { tab, session, numbers, events: recordEvents(session) }
}

const waitForNumbers = async (t: Test, tabs: OpenTab[], expected: number[]): Promise<void> => {
  await waitUntil(() => tabs.every(({ numbers }) => numbers.at(-1) === expected.at(-1)), `the number ${expected.at(-1)}`)
  for (const { numbers } of tabs) t.strictSame(numbers, expected)
}

const onlySession = (openSessions: Set<Session>): Session => {
  const [session, ...others] = openSessions
  if (!session || others.length > 0) throw new Error(`${openSessions.size} sessions are open`)
  return session
}

t.test('the tabs share one session and one stream; the last one closes it', async t => {
  const { openSession, openSessions, closeReasons, leader } = await serveShared(t)
  const first = await openSession()
  const second = await openSession()
  const session = onlySession(openSessions)
  for (const n of range(5)) session.emit('number', n)
  await waitForNumbers(t, [first, second], range(5))
  t.equal(second.tab.streamRequests, 0)
  first.tab.close()
  for (const n of range(5)) session.emit('number', 5 + n)
  await waitForNumbers(t, [second], range(10))
  t.equal(leader(), second.tab)
  t.strictSame(second.events.map(([event]) => event), ['open'])
  second.tab.close()
  await waitUntil(() => closeReasons.length > 0, 'the close')
  t.strictSame(closeReasons, ['deleted'])
})

t.test('the first tab receives what the onOpen hook has sent', async t => {
  const { sessions, openSession } = await serveShared(t)
  sessions.addHook('onOpen', session => { for (const n of range(3)) session.emit('number', n) })
  await waitForNumbers(t, [await openSession()], range(3))
})

for (const closer of ['the server', 'a listener'] as const) {
  t.test(`a tab releases everything when ${closer} closes its session, and can connect again`, async t => {
    const { openSession, openSessions, url, heldLocks, channelCount, settle } = await serveShared(t)
    const { tab, session } = await openSession()
    if (closer === 'a listener') session.on('number', () => { session.close() })
    const closed = waitForEvent(session, 'close')
    if (closer === 'a listener') onlySession(openSessions).emit('number', 1)
    else onlySession(openSessions).close('logout')
    await closed
    await tab.tick(3)
    t.strictSame(heldLocks(), [])
    t.equal(channelCount(), 0)
    await waitUntil(() => openSessions.size === 0, 'the close on the server')
    const again = openIn(tab, url)
    await waitForEvent(again.session, 'open')
    onlySession(openSessions).emit('number', 2)
    await waitForNumbers(t, [again], [2])
    await settle()
    t.equal(tab.streamRequests, 2)
  })
}

t.test('close() at any moment of the start leaves no lock, no channel and no session', async t => {
  const { openTab, openSessions, url, heldLocks, channelCount, settle } = await serveShared(t)
  for (const turns of range(30)) {
    const tab = openTab()
    const session = tab.connect(url)
    for (let turn = 0; turn < turns; turn++) await new Promise(resolve => { setImmediate(resolve) })
    await withTimeout(tab.run(session.close), 'close()')
    await settle()
    await tab.tick(2)
    t.strictSame(heldLocks(), [])
    t.equal(channelCount(), 0)
    await waitUntil(() => openSessions.size === 0, `the close after ${turns} turns`)
  }
})

t.test('a new tab opens a new session if the server has closed that of a frozen one', async t => {
  const { openTab, openSession, openSessions, url } = await serveShared(t)
  const frozen = await openSession()
  const unfreeze = frozen.tab.freeze()
  onlySession(openSessions).close('logout')
  const opened = openIn(openTab(), url)
  await opened.tab.tick(2)
  await waitUntil(() => opened.events.length > 0, 'the session')
  t.match(opened.events, [['open', { resumed: false }]])
  onlySession(openSessions).emit('number', 1)
  await waitForNumbers(t, [opened], [1])
  const closed = waitForEvent(frozen.session, 'close')
  frozen.session.on('reset', () => { frozen.session.close() })
  unfreeze()
  await closed
})

t.test('a tab that leaves stops its streaming handlers, but not those of the other tabs', async t => {
  const { sessions, openSession, openSessions } = await serveShared(t)
  const stopped: string[] = []
  sessions.handle('endless', async function * (_session, name, { signal }) {
    yield name
    await new Promise(resolve => { signal.addEventListener('abort', resolve) })
    stopped.push(name as string)
  })
  sessions.handle('short', async function * () { yield 1 })
  const first = await openSession()
  const second = await openSession()
  const start = async ({ session, tab }: OpenTab, name: string): Promise<AsyncGenerator<unknown>> => {
    const values = tab.run(() => session.subscribe('endless', name))
    t.equal((await values.next()).value, name)
    return values
  }
  const ended = second.tab.run(() => second.session.subscribe('short'))
  for await (const value of ended) t.equal(value, 1)
  await start(first, 'first')
  await start(second, 'second')
  const left = await start(second, 'left')
  await left.return(undefined)
  await waitUntil(() => stopped.length === 1, 'the end of the loop')
  await start(first, 'other')
  await second.tab.run(second.session.close)
  await waitUntil(() => stopped.length === 2, 'the end of the handler')
  t.strictSame(stopped, ['left', 'second'])
  onlySession(openSessions).emit('number', 1)
  await waitForNumbers(t, [first], [1])
  await first.tab.run(first.session.close)
  await waitUntil(() => stopped.length === 4, 'the end of the session')
})

t.test('another tab replaces a frozen leader once, which then follows it', async t => {
  const { openTab, openSession, openSessions, leader, url, settle } = await serveShared(t)
  const [frozen, second, third] = [await openSession(), await openSession(), await openSession()]
  const session = onlySession(openSessions)
  const unfreeze = frozen.tab.freeze()
  session.emit('number', 0)
  // A new tab that only the frozen leader could answer.
  const fourth = openIn(openTab(), url)
  await third.tab.tick()
  await second.tab.tick(2)
  await waitForNumbers(t, [second, third], [0])
  t.equal(leader(), second.tab)
  await waitUntil(() => fourth.session.state === 'open', 'the new tab')
  // The third tab has missed one answer of the frozen leader, and one of the new leader.
  await third.tab.tick()
  unfreeze()
  await settle()
  session.emit('number', 1)
  await waitForNumbers(t, [frozen, second, third], [0, 1])
  await waitForNumbers(t, [fourth], [1])
  t.equal(second.tab.streamRequests, 1)
  t.strictSame([third, fourth].map(({ tab }) => tab.streamRequests), [0, 0])
  t.equal(leader(), second.tab)
})

t.test('two tabs that replace a frozen leader at the same time get one of them as the leader, and a tab can replace again', async t => {
  const { openSession, openSessions, leader } = await serveShared(t, { heartbeatInterval: false })
  const [frozen, second, third] = [await openSession(), await openSession(), await openSession()]
  const session = onlySession(openSessions)
  const unfreeze = frozen.tab.freeze()
  await Promise.all([second.tab.tick(2), third.tab.tick(2)])
  session.emit('number', 0)
  await waitForNumbers(t, [second, third], [0])
  const [current, other] = leader() === second.tab ? [second, third] : [third, second]
  const unfreezeCurrent = current.tab.freeze()
  await other.tab.tick(2)
  session.emit('number', 1)
  await waitForNumbers(t, [other], [0, 1])
  unfreezeCurrent()
  unfreeze()
  session.emit('number', 2)
  await waitForNumbers(t, [frozen, second, third], [0, 1, 2])
  t.equal(leader(), other.tab)
})
