import { mock } from 'node:test'
import t, { type Test } from 'tap'
import { createLeader, type Leader } from '../../lib/client/shared/leader.js'
import type { LogPosition } from '../../lib/client/shared/log.js'
import type { Reply } from '../../lib/client/shared/messages.js'
import { matchList } from '../support/match-list.js'
import { deferred, nextEventLoopTick } from '../support/wait.js'

interface Stream {
  readonly url: string
  readonly headers: Record<string, string>
  /** Responds with the start of a stream, in one chunk. */
  readonly start: (text: string, type?: string) => Promise<void>
  readonly write: (text: string) => Promise<void>
  readonly end: () => Promise<void>
  readonly respond: (status: number, headers?: Record<string, string>, text?: string) => Promise<void>
  readonly fail: () => Promise<void>
  readonly isAborted: () => boolean
}

interface ScriptedLeader {
  readonly leader: Leader
  /** The requests for a stream. The network is scripted, because the order of chunks and pulls decides what each tab gets. */
  readonly streams: Stream[]
  /** What the leader finds when it checks the locks. The check waits for `delay`. */
  readonly locks: { isLeader: boolean, sessionIds: string[], delay?: Promise<void> | undefined }
  /** Requests a stream in a tab. */
  readonly request: (tab: string, cursor?: string, previousAborted?: boolean) => Promise<void>
  /** Reads on from the position of the tab, or from another one. */
  readonly pull: (tab: string, options?: { isVisible?: boolean, cursor?: string, isRepeated?: boolean }) => Promise<void>
  /** Returns the replies to a tab since the last call: the text, or what else the reply contains. */
  readonly replies: (tab: string) => string[]
}

const settle = async (): Promise<void> => { for (let turn = 0; turn < 3; turn++) await nextEventLoopTick() }

function scriptLeader (maxEventSize?: number): ScriptedLeader {
  const streams: Stream[] = []
  const locks: ScriptedLeader['locks'] = { isLeader: true, sessionIds: [] }
  const received = new Map<string, Reply[]>()
  const positions = new Map<string, LogPosition>()
  let number = 0
  const leader = createLeader({
    tabId: 'own',
    maxEventSize,
    streamRequest: { url: 'initial', init: { headers: {} } },
    checkLocks: async () => {
      const result = { ...locks }
      await locks.delay
      return result
    },
    sendReply: (tab, reply) => {
      received.set(tab, [...received.get(tab) ?? [], reply])
      if (reply.kind === 'text') positions.set(tab, reply.position)
    },
    fetch: (url, { headers, signal }) => new Promise((resolve, reject) => {
      let controller!: ReadableStreamDefaultController<Uint8Array>
      const body = new ReadableStream<Uint8Array>({ start (value) { controller = value } })
      const write = async (text: string): Promise<void> => {
        controller.enqueue(new TextEncoder().encode(text))
        await settle()
      }
      signal?.addEventListener('abort', () => {
        reject(new Error('aborted'))
        try {
          controller.error(new Error('aborted'))
        } catch {}
      })
      streams.push({
        url,
        headers: headers as Record<string, string>,
        start: async (text, type = 'text/event-stream') => {
          resolve(new Response(body, { headers: { 'content-type': type } }))
          await write(text)
        },
        write,
        end: async () => {
          controller.close()
          await settle()
        },
        respond: async (status, headers = {}, text = '') => {
          resolve(new Response(status === 204 ? null : text, { status, headers }))
          await settle()
        },
        fail: async () => {
          reject(new Error('no network'))
          await settle()
        },
        isAborted: () => signal?.aborted === true
      })
    })
  })
  // Its timer would keep the process running.
  t.teardown(leader.stop)
  return {
    leader,
    streams,
    locks,
    request: async (tab, cursor = '', previousAborted = false) => {
      leader.onPull({ tabId: tab, number: number++, position: { cursor }, isVisible: false, previousAborted, streamRequest: { url: tab, init: { headers: cursor ? { 'last-event-id': cursor } : {} } } })
      await settle()
    },
    pull: async (tab, { isVisible = false, cursor, isRepeated = false } = {}) => {
      leader.onPull({ tabId: tab, number: isRepeated ? number - 1 : number++, position: cursor === undefined ? positions.get(tab) as LogPosition : { cursor }, isVisible })
      await settle()
    },
    replies: tab => {
      const replies = received.get(tab) ?? []
      received.delete(tab)
      return replies.map(reply => reply.kind === 'text' ? reply.text : reply.kind === 'response' ? `${reply.status} ${reply.text}` : reply.kind === 'error' ? reply.message : reply.kind)
    }
  }
}

const welcome = (id: string, resumed = false, extra: object = {}): string => `id: ${id}\nevent: welcome\ndata: ${JSON.stringify({ sessionId: id.split('.')[0], resumed, ...extra })}\n\n`
const block = (id: string, event: string, data: unknown): string => `id: ${id}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`
const event = (id: string): string => block(id, 'number', id)
const CLOSE = block('closed', 'close', { reason: 'logout' })

/** Opens a session in the tab of the leader and in other tabs. */
async function openSession (tabs: string[]): Promise<ScriptedLeader & { stream: Stream }> {
  const script = scriptLeader()
  for (const tab of tabs) await script.request(tab)
  const [stream] = script.streams as [Stream]
  await stream.start(welcome('s.0'))
  for (const tab of tabs) script.replies(tab)
  return { ...script, stream }
}

t.test('the tabs that wait for a new session get the events in the chunk of its welcome', async t => {
  const { streams, request, pull, replies } = scriptLeader()
  await request('own')
  await request('other')
  await streams[0]?.start(`retry: 7\n${welcome('s.0', false, { previous: 'unknown', extra: 1 })}${event('s.1')}`)
  for (const tab of ['own', 'other']) {
    t.strictSame(replies(tab), [`retry: 7\n\n${welcome('s.0', false, { extra: 1 })}`])
    await pull(tab)
    t.strictSame(replies(tab), [event('s.1')])
  }
  await request('late')
  t.strictSame(replies('late'), [`retry: 7\n\n${welcome('s.1', false, { extra: 1 })}`], 'a tab that joins later does not get them, but the reconnection time')
})

t.test('a tab of the previous session gets every event of the new one', async t => {
  const { streams, request, pull, replies } = scriptLeader()
  await request('own', 'old.5')
  await pull('other', { cursor: 'old.5' })
  t.equal(streams[0]?.headers['last-event-id'], 'old.5')
  await streams[0]?.start(welcome('s.0', false, { previous: 'unknown' }) + event('s.1'))
  t.strictSame(replies('own'), [welcome('s.0', false, { previous: 'unknown' })])
  t.strictSame(replies('other'), ['end'])
  await request('other', 'old.5')
  t.strictSame(replies('other'), [welcome('s.0', false, { previous: 'unknown' }) + event('s.1')])
})

t.test('a new tab gets a welcome, although the stream is replayed for a tab behind the log', async t => {
  const { streams, request, pull, replies } = scriptLeader()
  await request('own', 's.5')
  await request('behind', 's.3')
  await pull('less', { cursor: 's.4' })
  await request('new')
  await streams[0]?.start(welcome('s.5', true) + event('s.6'))
  t.equal(streams.length, 2)
  t.equal(streams[1]?.headers['last-event-id'], 's.3')
  await streams[1]?.start(welcome('s.3', true) + event('s.4'))
  t.strictSame(replies('own'), [welcome('s.5', true)])
  t.strictSame(replies('behind'), [welcome('s.3', true) + event('s.4')])
  t.strictSame(replies('less'), [':\n\n'])
  t.strictSame(replies('new'), [welcome('s.5')], 'it starts after the events that are replayed')
  await pull('new')
  await streams[1]?.write(event('s.5') + event('s.6'))
  t.strictSame(replies('new'), [event('s.6')])
})

/** Starts a leader that has replayed events for a slow tab, which is behind the log again. */
async function scriptSlowTab (t: Test) {
  const script = scriptLeader()
  const { streams, request, pull, replies } = script
  await request('own', 's.5')
  await streams[0]?.start(welcome('s.5', true))
  await pull('slow', { cursor: 's.3' })
  await streams[1]?.start(welcome('s.3', true) + event('s.4'))
  t.strictSame(replies('slow'), [event('s.4')])
  await pull('slow', { cursor: 's.2' })
  return script
}

t.test('a tab that stays behind the log does not cause replays all the time', async t => {
  // The page is new.
  let now = 0
  t.intercept(performance, 'now', { value: () => now })
  const { streams, request, pull, replies } = await scriptSlowTab(t)
  await request('slower', 's.1')
  t.equal(streams.length, 3, 'another tab does')
  await streams[2]?.start(welcome('s.1', true))
  await pull('slower', { cursor: 's.0' })
  t.equal(streams.length, 3)
  now = 1000
  await streams[2]?.write(':\n\n')
  t.strictSame(replies('slower').at(-1), ':\n\n')
  await request('slower', 's.0')
  await streams[2]?.end()
  t.strictSame(replies('slower'), ['end'])
})

t.test('a pull that waits for the interval between two replays causes one when it is repeated, also if the clock is set back', async t => {
  let now = 0
  t.intercept(performance, 'now', { value: () => now })
  t.intercept(Date, 'now', { value: () => 1e12 - now })
  const { streams, pull, replies } = await scriptSlowTab(t)
  await pull('slow', { isRepeated: true, cursor: 's.2' })
  t.equal(streams.length, 2)
  now += 10_000
  await pull('slow', { isRepeated: true, cursor: 's.2' })
  t.strictSame(replies('slow'), ['pending', 'pending'])
  t.equal(streams[2]?.headers['last-event-id'], 's.2')
})

t.test('a new tab does not get a session that is closed', async t => {
  const { streams, locks, request, pull, replies } = scriptLeader()
  locks.sessionIds = ['closed-session']
  await request('own')
  t.equal(streams[0]?.headers['x-session-id'], 'closed-session')
  await pull('frozen', { cursor: 'closed-session.3' })
  await streams[0]?.start(welcome('closed-session.3', true) + CLOSE)
  t.strictSame(replies('own'), [])
  t.strictSame(replies('frozen'), [CLOSE])
  t.strictSame(streams[1]?.headers, {})
  await streams[1]?.start(welcome('s.0'))
  t.strictSame(replies('own'), [welcome('s.0')])
})

t.test('a tab that joins after the close opens a new session', async t => {
  const { stream, streams, request, pull, replies } = await openSession(['own', 'other'])
  await pull('own')
  await stream.write(CLOSE)
  t.strictSame(replies('own'), [CLOSE])
  t.ok(stream.isAborted())
  await pull('other')
  t.strictSame(replies('other'), [CLOSE])
  await pull('other')
  t.strictSame(replies('other'), ['end'])
  await request('new')
  t.strictSame(streams[1]?.headers, {})
})

t.test('one visible tab that has joined gets a request of the server, also in a replay', async t => {
  const { stream, streams, pull, replies } = await openSession(['own', 'other'])
  const ask = (id: string): string => block(id, 'request', { request: 'r', event: 'ask' })
  for (const tab of ['own', 'other']) await pull(tab)
  await stream.write(ask('s.1'))
  t.strictSame(replies('own'), [ask('s.1')], 'no tab is visible')
  t.strictSame(replies('other'), ['id: s.1\n\n'])
  await pull('own')
  await pull('other')
  await pull('other', { isVisible: true, isRepeated: true })
  await stream.write(ask('s.2'))
  t.strictSame(replies('own'), ['id: s.2\n\n'])
  t.strictSame(replies('other'), ['pending', ask('s.2')])
  for (const tab of ['own', 'other']) await pull(tab)
  // The log no longer contains the requests, so they are replayed for a tab that has not received them.
  for (const id of ['s.3', 's.4']) await stream.write(block(id, 'large', 'x'.repeat(2 ** 20)))
  await pull('frozen', { cursor: 's.0', isVisible: true })
  t.equal(streams[1]?.headers['last-event-id'], 's.0')
  await streams[1]?.start(welcome('s.0', true) + ask('s.1') + ask('s.2'))
  t.strictSame(replies('frozen'), ['id: s.1\n\nid: s.2\n\n'])
  await pull('frozen', { isVisible: true })
  const acknowledged = 'id: s.5\nevent: message\nrequest: r\ndata: 1\n\n'
  await streams[1]?.write(acknowledged)
  t.strictSame(replies('frozen'), [acknowledged])
  await pull('other', { cursor: 's.2' })
  t.strictSame(replies('other').at(-1), acknowledged.replace('request: r\n', ''))
})

t.test('the leader stores the tabs of the last 1000 requests', async t => {
  const { stream, streams, pull, replies } = await openSession(['own'])
  const ask = (n: number): string => block(`s.${n.toString(36)}`, 'request', n)
  let text = ''
  for (let n = 1; n <= 1001; n++) text += ask(n)
  await pull('own')
  await stream.write(text)
  await pull('own')
  for (const id of ['s.zz', 's.zzz']) await stream.write(block(id, 'large', 'x'.repeat(2 ** 20)))
  await pull('own', { cursor: 's.0' })
  await streams[1]?.start(welcome('s.0', true) + ask(1) + ask(2))
  t.strictSame(replies('own').at(-1), `id: s.1\n\n${ask(2)}`)
})

t.test('no tab gets a request that another leader has distributed', async t => {
  const { streams, request, pull, replies } = scriptLeader()
  const ask = (id: string): string => block(id, 'request', { request: 'r', event: 'ask' })
  await request('own', 's.1')
  await pull('other', { cursor: 's.3' })
  await streams[0]?.start(welcome('s.1', true))
  replies('own')
  await pull('own')
  await pull('other')
  await streams[0]?.write(ask('s.2') + event('s.3') + ask('s.4'))
  t.strictSame(replies('own'), [`id: s.2\n\n${event('s.3')}${ask('s.4')}`])
  t.strictSame(replies('other').at(-1), 'id: s.4\n\n')
  await pull('own')
  // After a rollback of the store, the positions are new.
  await streams[0]?.write(block('s.1', 'gap', { after: 4, resumedAt: 1, reason: 'store' }) + ask('s.2'))
  matchList(t, replies('own'), [/"ask"/])
})

t.test('a request of the server goes to a tab that has joined', async t => {
  const { stream, leader, pull, replies } = await openSession(['first', 'second'])
  const ask = block('s.1', 'request', { request: 'r', event: 'ask' })
  for (const tab of ['second', 'first']) await pull(tab)
  await stream.write(ask)
  t.strictSame(replies('first'), [ask])
  leader.removeTab('first')
  leader.removeTab('second')
  // No tab has joined.
  await stream.write(block('s.2', 'request', {}))
  await pull('own', { cursor: 's.1' })
  matchList(t, replies('own'), [/event: request/])
})

t.test('a leader that was frozen reads nothing more if another tab leads', async t => {
  let now = 1e12
  t.intercept(Date, 'now', { value: () => now })
  const { stream, locks, pull, replies } = await openSession(['own'])
  await pull('own')
  now += 6000
  await stream.write(event('s.1'))
  t.strictSame(replies('own'), [event('s.1')])
  await pull('own')
  now += 6000
  locks.isLeader = false
  await stream.write(event('s.2'))
  t.strictSame(replies('own'), [])
  t.ok(stream.isAborted())
})

t.test('a leader that was frozen does not abort the stream that has replaced the old one', async t => {
  let now = 1e12
  for (const clock of [Date, performance]) t.intercept(clock, 'now', { value: () => now })
  const { stream, streams, locks, pull, request, replies } = await openSession(['own'])
  await pull('own')
  now += 6000
  const checked = deferred()
  Object.assign(locks, { isLeader: false, delay: checked.promise })
  await stream.write(event('s.1'))
  Object.assign(locks, { isLeader: true, delay: undefined })
  await request('own', 's.0', true)
  t.equal(streams.length, 2)
  checked.resolve()
  await settle()
  t.notOk(streams[1]?.isAborted())
  await streams[1]?.start(welcome('s.0', true) + event('s.1'))
  t.strictSame(replies('own'), [welcome('s.0', true) + event('s.1')])
})

t.test('a tab that is not the leader opens no stream and does not answer, until it is the leader again', async t => {
  const { streams, locks, request, pull, replies } = scriptLeader()
  locks.isLeader = false
  await request('own')
  await pull('other', { cursor: 's.0' })
  await pull('other', { cursor: 's.0', isRepeated: true })
  t.equal(streams.length, 0)
  t.strictSame(replies('other'), [])
  locks.isLeader = true
  await pull('other', { cursor: 's.0', isRepeated: true })
  t.equal(streams.length, 1)
})

t.test('a request without a welcome fails after 37.5 seconds', async t => {
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => { mock.timers.reset() })
  const { leader, streams, request, pull, replies } = scriptLeader()
  const advance = async (ms: number): Promise<void> => {
    mock.timers.tick(ms)
    await settle()
  }
  await request('own')
  await pull('other', { cursor: 's.0' })
  await advance(37_499)
  t.strictSame(replies('own'), [])
  await advance(1)
  t.strictSame(replies('own'), ['The stream timed out'])
  t.strictSame(replies('other'), ['end'])
  t.ok(streams[0]?.isAborted())
  await request('own')
  await streams[1]?.start(': comment\n\n')
  await advance(37_500)
  t.strictSame(replies('own'), ['The stream timed out'])
  t.ok(streams[1]?.isAborted())
  await request('own')
  await streams[2]?.start(welcome('s.0'))
  await advance(100_000)
  t.strictSame(replies('own'), [welcome('s.0')])
  t.notOk(streams[2]?.isAborted(), 'a stream without heartbeats may be silent')
  leader.stop()
})

t.test('a response that is no stream may be endless', async t => {
  const { streams, request, replies } = scriptLeader()
  await request('own')
  await streams[0]?.start('<p>', 'text/html')
  t.strictSame(replies('own'), ['200 <p>'])
  t.ok(streams[0]?.isAborted())
  await request('own')
  await streams[1]?.respond(204)
  t.strictSame(replies('own'), ['204 '])
})

t.test('a refusal applies to all tabs until its end, also if the clock is set back', async t => {
  let now = 0
  t.intercept(performance, 'now', { value: () => now })
  t.intercept(Date, 'now', { value: () => 1e12 - 10 * now })
  const { streams, request, pull, replies } = scriptLeader()
  await request('own')
  await pull('old', { cursor: 's.1' })
  await streams[0]?.respond(503, { 'retry-after': '10' }, 'busy')
  t.strictSame(replies('own'), ['503 busy'])
  t.strictSame(replies('old'), ['end'])
  now += 9000
  await request('own')
  t.strictSame(replies('own'), ['503 busy'])
  now += 1000
  await request('own')
  t.equal(streams.length, 2)
  await request('other')
  await streams[1]?.respond(403)
  t.strictSame(replies('own'), ['403 '])
  t.strictSame(replies('other'), ['The request of another tab was refused'])
  await request('own')
  await streams[2]?.fail()
  t.strictSame(replies('own'), ['Error: no network'])
  await request('own')
  await streams[3]?.start('retry: 5\n\n')
  await streams[3]?.end()
  t.strictSame(replies('own'), ['200 retry: 5\n\n'])
})

t.test('a copy of an earlier stream is an error', async t => {
  const { streams, request, replies } = scriptLeader()
  await request('own', 's.5')
  await streams[0]?.start(welcome('s.3', true) + event('s.4'))
  t.strictSame(replies('own'), ['TypeError: A cached stream'])
})

t.test('a stream that was replaced before its welcome opens no session', async t => {
  const { streams, request, replies } = scriptLeader()
  await request('own')
  await streams[0]?.start('event: replaced\nid: closed\ndata: {}\n\n')
  t.strictSame(replies('own'), ['end'])
})

t.test('an event without an id, or a comment, goes to the tabs that wait', async t => {
  let now = 0
  t.intercept(performance, 'now', { value: () => now })
  const { stream, request, pull, replies } = await openSession(['own', 'other'])
  await pull('own')
  const heartbeat = 'event: heartbeat\ndata: {}\n\n'
  await stream.write(heartbeat)
  t.strictSame(replies('own'), [heartbeat])
  await pull('own')
  await stream.write(': heartbeat\n\n')
  t.strictSame(replies('own'), [], 'less than a second later')
  now = 1000
  await stream.write(': heartbeat\n\n')
  t.strictSame(replies('own'), [':\n\n'])
  await stream.write('retry: 9\n\n')
  await request('other', 's.0')
  t.strictSame(replies('other'), [`retry: 9\n\n${welcome('s.0', true)}retry: 9\n\n`])
})

t.test('each tab gets an event that is too large', async t => {
  let now = 0
  t.intercept(performance, 'now', { value: () => now })
  const script = scriptLeader(10)
  await script.request('own')
  await script.streams[0]?.start(welcome('s.0'))
  await script.pull('own')
  script.replies('own')
  await script.streams[0]?.write(`data: ${'x'.repeat(2000)}`)
  t.strictSame(script.replies('own'), [`data: ${' '.repeat(11)}\n\n`])
  await script.pull('own')
  now = 1000
  await script.streams[0]?.write('x'.repeat(2000))
  t.strictSame(script.replies('own'), [':\n\n'], 'once')
})

t.test('each tab gets an event that is larger than the log, although another one follows in the same chunk', async t => {
  const { streams, stream, pull, replies } = await openSession(['own', 'other'])
  for (const tab of ['own', 'other']) await pull(tab)
  const large = block('s.1', 'large', 'x'.repeat(2 ** 20))
  await stream.write(large.slice(0, 1000))
  await stream.write(large.slice(1000) + event('s.2'))
  await stream.write(event('s.3'))
  for (const tab of ['own', 'other']) t.ok(replies(tab).includes(large + event('s.2')), tab)
  t.equal(streams.length, 1, 'without a replay')
})

t.test('a tab whose stream was silent replaces one that is not new, also if the clock is set back', async t => {
  let now = 0
  t.intercept(performance, 'now', { value: () => now })
  t.intercept(Date, 'now', { value: () => 1e12 - now })
  const { leader, stream, streams, request } = await openSession(['own', 'other'])
  await request('own', 's.0', true)
  t.equal(streams.length, 1)
  now += 2000
  await request('own', 's.0', true)
  t.equal(streams.length, 2)
  t.ok(stream.isAborted())
  leader.stop()
  t.ok(streams[1]?.isAborted())
})
