import { createParser } from './event-stream-parser.js'
import type { ConnectOptions, Fetch } from './options.js'

/** A request for a stream, without the signal, which cannot be sent to another tab. */
interface StreamRequest {
  readonly url: string
  readonly init: Omit<RequestInit, 'signal'> & { readonly headers: Record<string, string> }
}

/** What a tab has received: the id of its last event, and its place in the log of the leader, if the tab has read from that log. */
interface Position {
  readonly cursor: string
  readonly logId?: string
  readonly index?: number
}

/** A request of a tab for what follows its position. The leader answers when there is something. */
interface Pull {
  readonly position: Position
  readonly tab: string
  readonly number: number
  readonly isVisible: boolean
  /** Set in the first pull of a stream. */
  readonly request?: StreamRequest
  /** Whether the tab has given up its previous stream, so that the stream of the leader may be dead, too. */
  readonly isRetry?: boolean
}

/** An answer to a pull: that the leader is running, the response to the request, its error, the end of the stream, or the text that follows. */
type Reply = { readonly number: number } & (
  | { readonly kind: 'waiting' | 'end' }
  | { readonly kind: 'response', readonly status: number, readonly headers: Array<[string, string]>, readonly text: string }
  | { readonly kind: 'error', readonly message: string }
  | { readonly kind: 'text', readonly text: string, readonly position: Position }
)
type ReplyContent = Reply extends infer R ? R extends Reply ? Omit<R, 'number'> : never : never

/** A block of the stream in the log of the leader. `id` is that of the last event up to this one. */
interface Entry {
  readonly id: string
  readonly text: string
  /** Only the tab `owner` gets `text`, because one tab must answer; the others get `otherText`. */
  readonly owner?: string | undefined
  readonly otherText?: string
  /** Set if this is a `gap` event. */
  readonly resumedAt?: number
}

// Milliseconds after which a tab repeats a pull. After a second time without an answer, it becomes the leader.
const ANSWER_TIMEOUT = 5000
// Minimum age of a stream that the leader replaces because a tab has given it up, in milliseconds.
const MIN_STREAM_AGE = 1000
// Maximum number of characters in the log of the leader. One entry may have any size.
const MAX_LOG_SIZE = 2 ** 20

const sessionOf = (id: string): string => id.slice(0, id.lastIndexOf('.'))
const positionOf = (id: string): number => id === 'closed' ? Infinity : parseInt(id.slice(id.lastIndexOf('.') + 1), 36)
const post = (channel: string, message: unknown): void => {
  // A channel that stayed open would also receive the messages of other tabs, without limit while this one is frozen.
  const sender = new BroadcastChannel(channel)
  sender.postMessage(message)
  sender.close()
}

function formatBlock (fields: Record<string, string | undefined>, data = ''): string {
  const lines = Object.entries(fields).filter(([, value]) => value).map(([field, value]) => `${field}: ${value}`)
  if (data !== '') lines.push(...data.slice(0, -1).split('\n').map(line => `data: ${line}`))
  return `${lines.join('\n')}\n\n`
}

/** The latest blocks of the stream, from which tabs read at their own pace. */
class Log {
  readonly logId = crypto.randomUUID()
  /** The id after which the entries start. */
  start: string
  readonly #entries: Entry[] = []
  /** Number of entries that were removed. */
  #removed = 0
  #size = 0

  constructor (start: string) {
    this.start = start
  }

  get end (): string {
    return this.#entries.at(-1)?.id ?? this.start
  }

  push (entry: Entry): void {
    this.#entries.push(entry)
    this.#size += entry.text.length
    while (this.#size > MAX_LOG_SIZE && this.#entries.length > 1) {
      const { id, text } = this.#entries.shift() as Entry
      this.start = id
      this.#removed++
      this.#size -= text.length
    }
  }

  isSameSession (cursor: string): boolean {
    return cursor !== '' && sessionOf(cursor) === sessionOf(this.start)
  }

  /** The index of the next entry; `undefined` if the log no longer has it, or is of another session. */
  find ({ cursor, logId, index }: Position): number | undefined {
    if (logId === this.logId && index !== undefined && index >= this.#removed) return index - this.#removed
    if (!this.isSameSession(cursor)) return undefined
    const ids = this.#entries.map(({ id }) => id)
    let last = ids.lastIndexOf(cursor)
    // The entries after the first one with this id may be new to the tab, for example a gap.
    while (last > 0 && ids[last - 1] === cursor) last--
    if (last >= 0 || cursor === this.start) return last + 1
    if (positionOf(cursor) < positionOf(this.start)) return undefined
    // The server may send other events than before, because a later event replaces an earlier one.
    const next = ids.findIndex(id => positionOf(id) > positionOf(cursor))
    return next === -1 ? ids.length : next
  }

  /** Returns what follows a position; `undefined` if there is nothing yet. */
  read (tab: string, position: Position): { text: string, position: Position } | undefined {
    const index = this.find(position)
    if (index === undefined || index >= this.#entries.length) return undefined
    // Another stream can report, before the cursor, that events after the cursor are missing.
    const gaps = position.logId === this.logId ? [] : this.#entries.slice(0, index).filter(({ resumedAt = 0 }) => resumedAt > positionOf(position.cursor))
    const texts = this.#entries.slice(index).map(({ text, owner = tab, otherText }) => owner === tab ? text : otherText)
    return {
      text: [...gaps.map(({ text }) => text.replace(/^id: .*\n/, '')), ...texts].join(''),
      position: { cursor: this.end, logId: this.logId, index: this.#removed + this.#entries.length }
    }
  }
}

/** Has the only stream of the session, and passes it on. */
interface Leader {
  readonly onPull: (pull: Pull) => void
  readonly removeTab: (tab: string) => void
  readonly stop: () => void
}

function createLeader (ownTab: string, fetch: Fetch, { maxEventSize = 2 ** 24 }: ConnectOptions, initialRequest: StreamRequest, findSessionId: () => Promise<string | undefined>, sendReply: (tab: string, reply: Reply) => void): Leader {
  /** The pulls without an answer, by tab. */
  const waiting = new Map<string, Pull>()
  let request = initialRequest
  let log = new Log('')
  let state: 'idle' | 'opening' | 'open' | 'ended' = 'idle'
  let welcome: Record<string, unknown> = {}
  let startedAt = 0
  let controller = new AbortController()
  // The tab that was visible last.
  let visibleTab: string | undefined

  const reply = ({ tab, number }: Pull, content: ReplyContent): void => {
    waiting.delete(tab)
    sendReply(tab, { number, ...content })
  }

  // A function, because TypeScript does not see that `onBlock` changes the state.
  const hasEnded = (): boolean => state === 'ended'

  const isMissing = (position: Position): boolean => log.isSameSession(position.cursor) && log.find(position) === undefined

  const answer = (pull: Pull): void => {
    if (pull.request) {
      const resumed = log.isSameSession(pull.position.cursor)
      const cursor = resumed ? pull.position.cursor : log.end
      const { previous, ...data } = welcome
      const text = formatBlock({ id: cursor, event: 'welcome' }, `${JSON.stringify({ ...data, resumed, ...!resumed && pull.position.cursor && { previous: 'unknown' } })}\n`)
      return reply(pull, { kind: 'text', text, position: { cursor } })
    }
    const next = log.read(pull.tab, pull.position)
    if (next) reply(pull, { kind: 'text', ...next })
    else if (state === 'ended' || log.find(pull.position) === undefined) reply(pull, { kind: 'end' })
  }

  const answerAll = (): void => {
    const [lowest] = state === 'open' ? [...waiting.values()].map(({ position }) => position).filter(isMissing).sort((a, b) => positionOf(a.cursor) - positionOf(b.cursor)) : []
    if (lowest) open(lowest.cursor)
    else for (const pull of waiting.values()) answer(pull)
  }

  /** Answers after a request that has opened no stream. */
  const fail = (used: StreamRequest, content: ReplyContent): void => {
    state = 'ended'
    for (const pull of waiting.values()) {
      // Another tab may have newer credentials, so only a temporary error applies to it.
      const isRefused = content.kind === 'response' && content.status >= 400 && content.status < 500 && content.status !== 429 && pull.request !== used
      if (!pull.request) reply(pull, { kind: 'end' })
      else reply(pull, isRefused ? { kind: 'error', message: 'The request of another tab was refused' } : content)
    }
  }

  /** Opens the stream: after the end of the log, unless the log is empty or lacks what follows the cursor. */
  const open = async (cursor: string): Promise<void> => {
    controller.abort()
    controller = new AbortController()
    const { signal } = controller
    const used = request
    state = 'opening'
    startedAt = Date.now()
    if (log.end === '' || log.end === 'closed' || isMissing({ cursor })) log = new Log(cursor)
    let retry = ''
    try {
      const { 'last-event-id': _, ...headers } = used.init.headers
      if (log.end !== '') {
        headers['last-event-id'] = log.end
      } else {
        const sessionId = await findSessionId()
        if (sessionId) headers['x-session-id'] = sessionId
      }
      const response = await fetch(used.url, { ...used.init, headers, signal })
      if (!response.body || !response.ok || !/^text\/event-stream\b/i.test(response.headers.get('content-type') ?? '')) {
        const text = await response.text()
        return signal.aborted ? undefined : fail(used, { kind: 'response', status: response.status, headers: [...response.headers], text })
      }
      const parse = createParser(onBlock, ms => {
        retry = formatBlock({ retry: String(ms) })
        log.push({ id: log.end, text: retry })
      })
      const reader = response.body.getReader()
      const decoder = new TextDecoder()
      while (!hasEnded()) {
        const { done, value } = await reader.read()
        if (signal.aborted) return
        if (done) break
        const pending = parse(decoder.decode(value, { stream: true }))
        if (state === 'opening') continue
        // Each tab closes its session because of such an event.
        if (pending > maxEventSize + 1024) log.push({ id: log.end, text: formatBlock({}, `${' '.repeat(maxEventSize + 1)}\n`) })
        answerAll()
        // Resets the idle timers of the tabs.
        for (const pull of waiting.values()) reply(pull, { kind: 'text', text: ':\n\n', position: pull.position })
      }
    } catch (error) {
      if (signal.aborted) return
      if (state === 'opening') return fail(used, { kind: 'error', message: String(error) })
    }
    controller.abort()
    if (state === 'opening') return fail(used, { kind: 'response', status: 200, headers: [['content-type', 'text/event-stream']], text: retry })
    state = 'ended'
    answerAll()
  }

  const onBlock = (id: string | undefined, event: string, data: string, acknowledgement: string): void => {
    if (event === 'welcome' && data !== '') {
      welcome = JSON.parse(data)
      if (!log.isSameSession(id as string)) log = new Log(id as string)
      state = 'open'
    } else if (event === 'replaced') {
      // Another tab has become the leader, or this one has sent two requests that arrived in the other order.
      state = 'ended'
    } else if (state === 'open' && (id !== undefined || data !== '')) {
      const text = formatBlock({ id, event, request: acknowledgement }, data)
      const otherText = event === 'request' ? formatBlock({ id }) : formatBlock({ id, event }, data)
      log.push({
        id: id ?? log.end,
        text,
        ...(event === 'request' || acknowledgement) && { owner: visibleTab ?? ownTab, otherText },
        ...event === 'gap' && { resumedAt: JSON.parse(data).resumedAt }
      })
    }
  }

  return {
    onPull (pull) {
      const { tab, number, isVisible, position: { cursor } } = pull
      if (isVisible) visibleTab = tab
      else if (visibleTab === tab) visibleTab = undefined
      if (waiting.get(tab)?.number === number) return sendReply(tab, { number, kind: 'waiting' })
      waiting.set(tab, pull)
      if (pull.request) request = pull.request
      const isStale = pull.isRetry && Date.now() - startedAt > MIN_STREAM_AGE
      if (state === 'idle' || (pull.request && (state === 'ended' || isStale))) open(cursor)
      else if (state !== 'opening') answerAll()
    },
    removeTab (tab) {
      waiting.delete(tab)
      if (visibleTab === tab) visibleTab = undefined
    },
    stop () {
      controller.abort()
      waiting.clear()
    }
  }
}

/** Takes part in the election of the leader, and reads from it. Returns the `fetch` for the requests for a stream and their close. */
async function join (url: string, fetch: Fetch, options: ConnectOptions, closed: AbortSignal): Promise<Fetch> {
  const { locks } = navigator
  const tab = crypto.randomUUID()
  const name = `fastify-sse-sessions ${JSON.stringify([new URL(url, globalThis.location?.href).href, options.shared])}`
  const tabLock = (id: string): string => `${name} tab ${id}`
  const sessionLock = `${name} session `
  const left = new AbortController()
  /** The other tabs. */
  const others = new Set<string>()
  let request: StreamRequest
  let streamSignal: AbortSignal
  let leader: Leader | undefined
  // The channel of the current leader.
  let leaderChannel: string | undefined
  let current: { readonly pull: Pull, readonly onReply: (reply: Reply) => void } | undefined
  let pullCount = 0
  let wasGivenUp = false
  let sessionId: string | undefined
  let releaseSession: (() => void) | undefined
  let queued = new AbortController()

  /** Holds a lock until the tab leaves, or until the function is called with which the promise resolves. */
  const hold = (lock: string, mode: LockMode = 'exclusive'): Promise<() => void> => new Promise((resolve, reject) => {
    locks.request(lock, { mode }, () => new Promise<void>(_resolve => {
      left.signal.addEventListener('abort', () => { _resolve() })
      resolve(_resolve)
    })).catch(reject)
  })

  const listen = (channel: string, onMessage: (message: never) => void): BroadcastChannel => {
    const receiver = new BroadcastChannel(channel)
    receiver.onmessage = ({ data }) => { onMessage(data as never) }
    left.signal.addEventListener('abort', () => { receiver.close() })
    return receiver
  }

  const heldLocks = async (prefix: string): Promise<string[]> => ((await locks.query()).held ?? [])
    .flatMap(({ name = '' }) => name.startsWith(prefix) ? [name.slice(prefix.length)] : [])

  /** Adds a tab to the others until it is closed or has crashed. */
  const watch = (other: string): void => {
    if (other === tab || others.has(other)) return
    others.add(other)
    locks.request(tabLock(other), { signal: left.signal }, () => {
      others.delete(other)
      leader?.removeTab(other)
    }).catch(() => {})
  }

  const lead = async (): Promise<void> => {
    const channel = `${name} leader ${crypto.randomUUID()}`
    const newLeader = leader = createLeader(tab, fetch, options, request, async () => (await heldLocks(sessionLock)).at(-1), (other, reply) => { post(tabLock(other), reply) })
    const receiver = listen(channel, (pull: Pull) => {
      watch(pull.tab)
      newLeader.onPull(pull)
    })
    stopLeading = () => {
      newLeader.stop()
      receiver.close()
    }
    leaderChannel = channel
    post(name, { leaderChannel })
    sendPull()
    for (const other of await heldLocks(tabLock(''))) watch(other)
    await new Promise(resolve => { left.signal.addEventListener('abort', resolve) })
  }
  let stopLeading = (): void => {}

  /** Becomes the leader when the current one releases the lock, or at once with `steal`. */
  const elect = async (steal = false): Promise<void> => {
    queued.abort()
    queued = new AbortController()
    const { signal } = queued
    try {
      await locks.request(name, steal ? { steal } : { signal }, lead)
    } catch {
      if (signal.aborted) return
      // Another tab has become the leader, because this one was frozen.
      leader = undefined
      stopLeading()
      elect()
    }
  }

  const sendPull = (): void => {
    if (!current) return
    if (leaderChannel) post(leaderChannel, current.pull)
    else post(name, {})
  }

  const pull = (content: Pick<Pull, 'position' | 'request' | 'isRetry'>, signal: AbortSignal): Promise<Reply> => new Promise((resolve, reject) => {
    let unanswered = 0
    const stop = (): void => {
      clearInterval(timer)
      signal.removeEventListener('abort', abort)
      current = undefined
    }
    const abort = (): void => {
      stop()
      wasGivenUp = true
      reject(signal.reason)
    }
    const timer = setInterval(() => {
      if (++unanswered === 2) elect(true)
      else sendPull()
    }, ANSWER_TIMEOUT)
    signal.addEventListener('abort', abort)
    current = {
      pull: { ...content, tab, number: pullCount++, isVisible: globalThis.document?.visibilityState === 'visible' },
      onReply: reply => {
        unanswered = 0
        if (reply.kind === 'waiting') return
        stop()
        resolve(reply)
      }
    }
    sendPull()
  })

  const leaveIfClosed = (): void => {
    // A request that may open a session continues after the close, so that this session can be closed.
    if (!closed.aborted || !streamSignal.aborted) return
    stopLeading()
    queued.abort()
    left.abort()
  }

  const holdSession = async (id: string): Promise<void> => {
    if (id === sessionId) return
    sessionId = id
    releaseSession?.()
    // A new leader without a cursor finds the session, even if all other tabs are frozen.
    releaseSession = await hold(sessionLock + id, 'shared')
  }

  const openStream = async (signal: AbortSignal): Promise<Response> => {
    const isRetry = wasGivenUp
    wasGivenUp = false
    const first = await pull({ position: { cursor: request.init.headers['last-event-id'] ?? '' }, request, isRetry }, signal)
    if (first.kind === 'response') return new Response(first.text || null, first)
    if (first.kind !== 'text') throw new TypeError(first.kind === 'error' ? first.message : 'The stream has ended')
    let { position } = first
    holdSession(sessionOf(position.cursor))
    const encoder = new TextEncoder()
    return new Response(new ReadableStream<Uint8Array>({
      start (controller) { controller.enqueue(encoder.encode(first.text)) },
      async pull (controller) {
        const next = await pull({ position }, signal)
        if (next.kind !== 'text') return controller.close()
        position = next.position
        controller.enqueue(encoder.encode(next.text))
      }
    }), { headers: { 'content-type': 'text/event-stream' } })
  }

  await hold(tabLock(tab))
  listen(tabLock(tab), (reply: Reply) => { if (reply.number === current?.pull.number) current.onReply(reply) })
  listen(name, (message: { leaderChannel?: string }) => {
    if (message.leaderChannel === undefined) {
      if (leader) post(name, { leaderChannel })
    } else if (message.leaderChannel !== leaderChannel) {
      leaderChannel = message.leaderChannel
      sendPull()
    }
  })
  closed.addEventListener('abort', leaveIfClosed)

  return async (url, { signal, ...init }) => {
    if (init.method === 'DELETE') {
      // The other tabs continue the session.
      return leader && others.size === 0 ? await fetch(url, { signal: signal ?? null, ...init }) : new Response(null, { status: 204 })
    }
    const isFirst = request === undefined
    request = { url, init: init as StreamRequest['init'] }
    streamSignal = signal as AbortSignal
    streamSignal.addEventListener('abort', leaveIfClosed)
    if (isFirst) elect()
    return await openStream(streamSignal)
  }
}

const joined = new WeakMap<AbortSignal, Promise<Fetch>>()

/**
 * Creates a `fetch` for a session that the tabs of an origin share. Requests for a stream are answered from the only stream, that
 * of the leader. Other requests are sent as they are. Without Web Locks and BroadcastChannel, all requests are.
 */
export function sharedFetch (fetch: Fetch, options: ConnectOptions, closed: AbortSignal): Fetch {
  return async (url, init) => {
    if (init.method === 'POST') return await fetch(url, init)
    let tab = joined.get(closed)
    if (!tab) joined.set(closed, tab = join(url, fetch, options, closed).catch(() => fetch))
    return await (await tab)(url, init)
  }
}
