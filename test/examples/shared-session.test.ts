import t, { type Test } from 'tap'
import type { ClientSession, ConnectOptions } from '../../lib/client/index.js'
import type { Session, Sessions, SseSessionsOptions } from '../../lib/index.js'
import { FORCE_CLOSE, range, recordEvents, waitForEvent } from '../support/clients.js'
import { createSend } from '../../lib/client/send.js'
import { sharedFetch } from '../../lib/client/shared-fetch.js'
import { listen } from '../../lib/client/shared/channels.js'
import { createElection } from '../../lib/client/shared/election.js'
import type { Pull } from '../../lib/client/shared/messages.js'
import { createPullClient } from '../../lib/client/shared/pull-client.js'
import { acquireLock } from '../../lib/client/shared/locks.js'
import { createTabTracker } from '../../lib/client/shared/tab-tracker.js'
import { skewClock } from '../support/clock.js'
import { fakeBrowser, type FakeBrowser, type FakeTab } from '../support/fake-browser.js'
import { matchList } from '../support/match-list.js'
import { chooseSeed, createRandom } from '../support/random.js'
import { serve } from '../support/server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

interface SharedServer extends FakeBrowser {
  readonly url: string
  readonly sessions: Sessions
  readonly breakConnections: () => void
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
  const { app, sessions, url } = await serve(t, { retry: [1, 2], ...options }, { fastify: FORCE_CLOSE })
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
    breakConnections: () => { app.server.closeAllConnections() },
    openSessions,
    closeReasons,
    openSession: async () => {
      const tab = browser.openTab()
      return await waitForOpen(await openIn(tab, url))
    }
  }
}

/** Starts a session in a tab. Resolves when it has requested a stream from the leader, which may not answer. */
async function openIn (tab: FakeTab, url: string, options?: ConnectOptions): Promise<OpenTab> {
  const session = tab.connect(url, options)
  const numbers: number[] = []
  session.on('number', n => { numbers.push(n as number) })
  const events = recordEvents(session)
  await waitUntil(() => tab.intervals.length > 0 || events.length > 0, 'the request')
  return { tab, session, numbers, events }
}

async function waitForOpen (opened: OpenTab): Promise<OpenTab> {
  await waitUntil(() => opened.session.state === 'open', 'the session')
  return opened
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
    const again = await openIn(tab, url)
    await waitForOpen(again)
    onlySession(openSessions).emit('number', 2)
    await waitForNumbers(t, [again], [2])
    await settle()
    t.equal(tab.streamRequests, 2)
  })
}

t.test('close() at any moment of the start leaves no lock, no channel and no session', async t => {
  const { openTab, openSessions, url, heldLocks, channelCount, settle } = await serveShared(t)
  const moments = new Set<string>()
  for (let tasks = 0; !moments.has('the session is open'); tasks++) {
    const tab = openTab()
    const session = tab.connect(url)
    const closed = deferred()
    const close = (): void => {
      moments.add(session.state === 'open' ? 'the session is open' : tab.streamRequests > 0 ? 'the stream is requested' : channelCount() > 0 ? 'the tab has joined' : heldLocks().length > 0 ? 'the tab has its lock' : 'the tab has no lock')
      session.close().then(closed.resolve)
    }
    session.on('open', close)
    if (tasks === 0) close()
    else tab.afterTasks(tasks, close)
    await withTimeout(closed.promise, 'close()')
    await settle()
    await tab.tick(3)
    await waitUntil(() => heldLocks().length + channelCount() === 0, 'the release')
    await waitUntil(() => openSessions.size === 0, `the close after ${tasks} tasks`)
  }
  t.strictSame([...moments], ['the tab has no lock', 'the tab has its lock', 'the tab has joined', 'the stream is requested', 'the session is open'])
})

t.test('a request that is aborted while the module for shared sessions is loaded acquires no lock', async t => {
  const { openTab, settle } = fakeBrowser(t)
  const controller = new AbortController()
  const { signal } = controller
  t.intercept(navigator.locks, 'request', { value: async () => { t.fail('it requests a lock') } })
  const options: ConnectOptions = {
    // Read just before the module is loaded.
    get shared () {
      controller.abort(new Error('aborted'))
      return true
    }
  }
  await openTab().run(async () => {
    const send = createSend('http://server', options, { fetch }, new Map(), signal, () => {})
    await t.rejects(send('/downward', { headers: {}, signal }), { message: 'aborted' })
  })
  await import('../../lib/client/shared-fetch.js')
  await settle()
})

t.test('close() in the listener of the event open releases the lock of the session', async t => {
  const { openTab, openSessions, url, heldLocks, channelCount, settle } = await serveShared(t)
  const session = openTab().connect(url)
  const closed = deferred()
  session.once('open', () => { session.close().then(closed.resolve) })
  await withTimeout(closed.promise, 'close()')
  await settle()
  await waitUntil(() => heldLocks().length + channelCount() === 0, 'the release')
  await waitUntil(() => openSessions.size === 0, 'the close on the server')
})

t.test('close() while the tab joins the others opens no session', async t => {
  const { openTab, url, settle, heldLocks } = await serveShared(t)
  const tab = openTab()
  const { locks } = navigator
  const { request } = locks
  const closed = deferred()
  Object.assign(locks, {
    request: (...args: Parameters<LockManager['request']>) => {
      session.close().then(closed.resolve)
      return request(...args)
    }
  })
  const session = tab.connect(url)
  await withTimeout(closed.promise, 'close()')
  await settle()
  t.equal(tab.streamRequests, 0)
  t.strictSame(heldLocks(), [])
})

t.test('a request that is aborted while the tab joins the others is not sent', async t => {
  const { openTab } = fakeBrowser(t)
  const controller = new AbortController()
  const close = new AbortController()
  await openTab().run(async () => {
    const fetchInGroup = sharedFetch(async () => {
      t.fail('it is sent')
      return new Response()
    }, { shared: true }, close.signal)
    const response = fetchInGroup('http://server/upward', { method: 'POST', body: '', signal: controller.signal })
    controller.abort(new Error('aborted'))
    await t.rejects(response, { message: 'aborted' })
  })
  close.abort()
})

t.test('a new tab opens a new session if the server has closed that of a frozen one', async t => {
  const { openTab, openSession, openSessions, url } = await serveShared(t)
  const frozen = await openSession()
  const unfreeze = frozen.tab.freeze()
  onlySession(openSessions).close('logout')
  const opened = await openIn(openTab(), url)
  await opened.tab.tick(3)
  await waitForOpen(opened)
  matchList(t, opened.events, [['open', { resumed: false }]])
  onlySession(openSessions).emit('number', 1)
  await waitForNumbers(t, [opened], [1])
  const closed = waitForEvent(frozen.session, 'close')
  frozen.session.on('reset', () => { frozen.session.close() })
  unfreeze()
  await closed
})

t.test('a new tab does not get a closed session, although its welcome arrives long before its close', async t => {
  const { openTab, openSession, openSessions, url } = await serveShared(t)
  const frozen = await openSession()
  const unfreeze = frozen.tab.freeze()
  onlySession(openSessions).close('logout')
  // Delays what follows the welcome of the first stream.
  const [read, gate] = [deferred(), deferred()]
  const slowFetch: typeof fetch = async (...args) => {
    const response = await fetch(...args)
    let [text, isDelayed] = ['', false]
    const splitter = new TransformStream<string, string>({
      async transform (chunk, controller) {
        if (isDelayed) await gate.promise
        text += chunk
        const end = text.indexOf('\n\n', text.indexOf('event: welcome')) + 2
        if (isDelayed || !text.includes('event: welcome') || end === 1) return controller.enqueue(chunk)
        controller.enqueue(chunk.slice(0, end - text.length || undefined))
        isDelayed = true
        read.resolve()
        await gate.promise
        controller.enqueue(text.slice(end))
      }
    })
    return new Response(response.body?.pipeThrough(new TextDecoderStream()).pipeThrough(splitter).pipeThrough(new TextEncoderStream()), response)
  }
  const opened = await openIn(openTab(), url, { fetch: slowFetch })
  await opened.tab.tick(3)
  await read.promise
  gate.resolve()
  await waitForOpen(opened)
  matchList(t, opened.events, [['open', { resumed: false }]])
  onlySession(openSessions).emit('number', 1)
  await waitForNumbers(t, [opened], [1])
  unfreeze()
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
  const { sessions, openTab, openSession, openSessions, leader, url, settle } = await serveShared(t)
  const [frozen, second, third] = [await openSession(), await openSession(), await openSession()]
  const session = onlySession(openSessions)
  const response = deferred()
  sessions.addHook('onResume', () => response.promise)
  const unfreeze = frozen.tab.freeze()
  session.emit('number', 0)
  // A new tab that only the frozen leader could answer.
  const fourth = await openIn(openTab(), url)
  await third.tab.tick(2)
  await second.tab.tick(3)
  await waitUntil(() => leader() === second.tab, 'the new leader')
  // The third tab has got no answer from the frozen leader, and none from the new one, which waits for the server.
  await third.tab.tick()
  await settle()
  t.equal(third.tab.streamRequests, 0)
  response.resolve()
  await waitForNumbers(t, [second, third], [0])
  await waitForOpen(fourth)
  unfreeze()
  await settle()
  session.emit('number', 1)
  await waitForNumbers(t, [frozen, second, third], [0, 1])
  await waitForNumbers(t, [fourth], [1])
  t.equal(second.tab.streamRequests, 1)
  t.strictSame([third, fourth].map(({ tab }) => tab.streamRequests), [0, 0])
  t.equal(leader(), second.tab)
})

t.test('a tab that waits replaces one leader after the other, also if another tab has replaced the first one at the same time', async t => {
  const { sessions, openSession, openSessions, leader } = await serveShared(t, { heartbeatInterval: false })
  const [frozen, second, third] = [await openSession(), await openSession(), await openSession()]
  const session = onlySession(openSessions)
  const response = deferred()
  sessions.addHook('onResume', () => response.promise)
  const unfreeze = frozen.tab.freeze()
  await Promise.all([second.tab.tick(3), third.tab.tick(3)])
  await waitUntil(() => leader() !== frozen.tab, 'the new leader')
  const [current, other] = leader() === second.tab ? [second, third] : [third, second]
  const unfreezeCurrent = current.tab.freeze()
  await other.tab.tick(3)
  await waitUntil(() => leader() === other.tab, 'the next leader')
  response.resolve()
  session.emit('number', 0)
  await waitForNumbers(t, [other], [0])
  unfreezeCurrent()
  unfreeze()
  session.emit('number', 1)
  await waitForNumbers(t, [frozen, second, third], [0, 1])
  t.equal(leader(), other.tab)
})

t.test('a tab from the back/forward cache follows the new leader at once', async t => {
  const { openSession, openSessions, leader, url, openTab } = await serveShared(t)
  const [first, second, third] = [await openSession(), await openSession(), await openSession()]
  const session = onlySession(openSessions)
  const restore = third.tab.cache()
  first.tab.close()
  await waitUntil(() => leader() === second.tab, 'the new leader')
  session.emit('number', 0)
  await waitForNumbers(t, [second], [0])
  restore()
  await waitForNumbers(t, [second, third], [0])
  session.emit('number', 1)
  await waitForNumbers(t, [second, third], [0, 1])
  t.equal(third.tab.streamRequests, 0)
  const fourth = await openIn(openTab(), url)
  await waitForOpen(fourth)
  t.equal(leader(), second.tab)
})

t.test('a request of the server goes to the tab that has become visible last', async t => {
  const { openSession, openSessions, settle } = await serveShared(t)
  const tabs = [await openSession(), await openSession()]
  const session = onlySession(openSessions)
  const asked = tabs.map(() => 0)
  for (const [index, opened] of tabs.entries()) opened.session.handle('ask', () => { asked[index] = (asked[index] as number) + 1 })
  const [first, second] = tabs as [OpenTab, OpenTab]
  await settle()
  first.tab.setVisible(true)
  await settle()
  await session.request('ask')
  t.strictSame(asked, [1, 0])
  first.tab.setVisible(false)
  second.tab.setVisible(true)
  await settle()
  await session.request('ask')
  t.strictSame(asked, [1, 1])
})

t.test('a tab requests nothing for a stream that was aborted', async t => {
  const tab = fakeBrowser(t).openTab()
  await tab.run(async () => {
    const { signal } = new AbortController()
    const election = createElection({ name: 'name', signal, onChange: () => {}, onElected: () => {} })
    await createElection({ name: 'name', signal: AbortSignal.abort(), onChange: () => {}, onElected: () => { t.fail('it leads') } }).run(true)
    await t.rejects(createPullClient('tab', 'replies', election, signal).requestNext(AbortSignal.abort(new Error('aborted')), { cursor: '' }), { message: 'aborted' })
  })
  t.strictSame(tab.intervals, [])
})

t.test('without Web Locks, each tab has its own session', async t => {
  const { openSession, openSessions } = await serveShared(t)
  Object.assign(navigator, { locks: undefined })
  const tabs = [await openSession(), await openSession()]
  t.equal(openSessions.size, 2)
  for (const { session } of tabs) await session.close()
  await waitUntil(() => openSessions.size === 0, 'the close')
})

t.test('without BroadcastChannel, each tab has its own session and no lock', async t => {
  const { openSession, openSessions, heldLocks } = await serveShared(t)
  Object.assign(globalThis, { BroadcastChannel: undefined })
  await openSession()
  await openSession()
  t.equal(openSessions.size, 2)
  t.strictSame(heldLocks(), [])
})

t.test('a tab that leaves while it becomes the leader does not lead', async t => {
  const { openTab, settle, heldLocks, channelCount } = fakeBrowser(t)
  const controller = new AbortController()
  const { locks } = navigator
  const { request } = locks
  t.intercept(locks, 'request', {
    value: (name: string, options: LockOptions, callback: LockGrantedCallback<unknown>) => request(name, options, lock => {
      const result = callback(lock)
      if (name.includes('leader')) controller.abort()
      return result
    })
  })
  await openTab().run(async () => {
    await createElection({ name: 'name', signal: controller.signal, onChange: () => {}, onElected: () => { t.fail('it leads') } }).run()
  })
  await settle()
  t.strictSame(heldLocks(), [])
  t.equal(channelCount(), 0)
})

t.test('a tab works, but deletes no session, if the query of the locks fails', async t => {
  const { openTab, settle } = fakeBrowser(t)
  t.intercept(navigator.locks, 'query', { value: async () => { throw new Error('no query') } })
  const tab = openTab()
  const controller = new AbortController()
  const { signal } = controller
  const pulls: unknown[] = []
  await tab.run(async () => {
    const tracker = createTabTracker('tab ', 'own', signal, () => {})
    const election = createElection({
      name: 'name',
      signal,
      onChange: () => {},
      onElected: channel => { listen(channel, signal, (pull: Pull) => { pulls.push(pull.number) }) }
    })
    election.run()
    await settle()
    createPullClient('tab', 'replies', election, signal).requestNext(signal, { cursor: '' }, { url: '', init: { headers: {} } }).catch(() => {})
    await tab.tick()
    t.strictSame(pulls, [0, 0])
    t.notOk(tracker.isOnlyTab)
  })
  controller.abort()
})

t.test('a tab retries after an error and a response of the server', async t => {
  const { openTab, url, breakConnections } = await serveShared(t)
  const stream = (text: string): Response => new Response(text, { headers: { 'content-type': 'text/event-stream' } })
  const failures = [
    async () => stream('retry: 1\n\n'),
    async () => { throw new TypeError('no network') },
    async () => new Response('busy', { status: 503 }),
    async () => new Response(null, { status: 503 }),
    async () => stream(''),
    async () => new Response(''),
    async () => stream('event: replaced\nid: closed\ndata: {}\n\n')
  ]
  const session = openTab().connect(url, { fetch: (...args) => (failures.shift() ?? (() => fetch(...args)))() })
  const events = recordEvents(session)
  await waitForEvent(session, 'open')
  matchList(t, events, [['error', { code: 'ENDED' }], ['error', { message: /no network/ }], ['error', { status: 503 }], ['error', { status: 503 }], ['error', { code: 'ENDED' }], ['error', { code: 'NOT_A_STREAM' }], ['error', { message: 'The stream has ended' }], ['open', {}]])
  const resumed = waitForEvent(session, 'resume')
  breakConnections()
  await resumed
})

t.test('whether no other tab is open is known only after the query of the locks', async t => {
  const { openTab, settle } = fakeBrowser(t)
  const tab = openTab()
  const { signal } = new AbortController()
  const closed: string[] = []
  await tab.run(async () => {
    await acquireLock('tab own', signal)
    const other = new AbortController()
    await acquireLock('tab other', other.signal)
    const tracker = createTabTracker('tab ', 'own', signal, id => { closed.push(id) })
    t.notOk(tracker.isOnlyTab)
    await settle()
    t.notOk(tracker.isOnlyTab)
    other.abort()
    await settle()
    t.ok(tracker.isOnlyTab)
    t.strictSame(closed, ['other'])
    tracker.add('crashed')
    t.notOk(tracker.isOnlyTab)
    await settle()
    t.ok(tracker.isOnlyTab)
  })
})

t.test('the last tab deletes the session, also just before its next pull', async t => {
  const advance = skewClock(t, Date)
  t.intercept(Math, 'random', { value: () => 0.999 })
  const { openSession, closeReasons } = await serveShared(t)
  const { tab, session } = await openSession()
  const [interval = 0] = tab.intervals
  t.ok(interval > 0)
  advance(interval)
  await tab.run(session.close)
  await waitUntil(() => closeReasons.length > 0, 'the close')
  t.strictSame(closeReasons, ['deleted'])
})

t.test('a tab that was frozen does not delete the session that another tab continues', async t => {
  const advance = skewClock(t, Date)
  t.intercept(Math, 'random', { value: () => 0 })
  const { openTab, openSession, openSessions, url, closeReasons, leader } = await serveShared(t)
  const first = await openSession()
  const unfreeze = first.tab.freeze()
  const second = await openIn(openTab(), url)
  const [interval = 0] = second.tab.intervals
  // The leader was frozen just before it could answer the first time.
  await second.tab.tick()
  while (leader() === first.tab) {
    advance(interval)
    await second.tab.tick()
  }
  await waitForOpen(second)
  unfreeze()
  await first.tab.run(first.session.close)
  const session = onlySession(openSessions)
  await session.emit('number', 1)
  await waitForNumbers(t, [second], [1])
  t.strictSame(closeReasons, [])
})

t.test('each tab receives every event once and in order, whichever tabs are opened, closed and frozen, or crash', async t => {
  const next = createRandom(chooseSeed(t))
  const pick = <T>(values: readonly T[]): T => values[Math.floor(next() * values.length)] as T
  const { openTab, openSession, openSessions, url, settle, breakConnections } = await serveShared(t)
  const open = new Set([await openSession()])
  const frozen = new Map<OpenTab, () => void>()
  const session = onlySession(openSessions)
  const actions: Array<[weight: number, act: (opened: OpenTab) => unknown]> = [
    [8, () => { session.emit('number', sent++).catch(() => {}) }],
    [3, async () => { if (open.size < 6) open.add(await openIn(openTab(), url)) }],
    [4, opened => opened.tab.tick()],
    [2, opened => { if (!frozen.has(opened)) frozen.set(opened, opened.tab.freeze()) }],
    [2, async opened => {
      frozen.get(opened)?.()
      // In this test, no time passes, by which the tab notices that it was frozen.
      if (frozen.delete(opened)) await settle()
    }],
    [1, opened => { if (remove(opened)) opened.tab.close() }],
    [1, opened => { if (remove(opened)) opened.tab.crash() }],
    [1, opened => { if (remove(opened)) opened.tab.run(opened.session.close) }],
    [1, breakConnections]
  ]
  const weighted = actions.flatMap(([weight, act]) => Array.from({ length: weight }, () => act))
  let sent = 0
  // The last tab that has joined would close the session.
  const hasJoined = ({ events }: OpenTab): boolean => events.length > 0
  const remove = (opened: OpenTab): boolean => !frozen.has(opened) && hasJoined(opened) && [...open].filter(hasJoined).length > 1 && open.delete(opened)
  for (let step = 0; step < 300; step++) {
    await pick(weighted)(pick([...open]))
    if (next() < 0.3) await settle()
  }
  for (const unfreeze of frozen.values()) unfreeze()
  await waitUntil(async () => {
    for (const { tab } of open) await tab.tick()
    return [...open].every(({ session }) => session.state === 'open')
  }, 'all tabs')
  session.emit('number', sent)
  await waitUntil(async () => {
    for (const { tab } of open) await tab.tick()
    return [...open].every(({ numbers }) => numbers.at(-1) === sent)
  }, 'the last event')
  for (const { numbers, events } of open) {
    t.strictSame(numbers, range(sent + 1).slice(numbers[0]))
    t.strictSame(events.filter(([event]) => ['reset', 'gap', 'close'].includes(event)), [])
  }
  t.equal(onlySession(openSessions), session)
})
