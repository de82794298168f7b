import { isTransient, parseRetryAfter } from '../errors.js'
import { createParser, OVERHEAD } from '../event-stream-parser.js'
import { IDLE_TIMEOUT } from '../network.js'
import type { Fetch } from '../options.js'
import { isAfter, Log, parsePosition, parseSessionId, type Entry, type LogPosition } from './log.js'
import type { Pull, Reply, ReplyContent, StreamRequest } from './messages.js'

// Minimum age of a stream that the leader replaces because a tab has aborted its own, in milliseconds.
const MIN_STREAM_AGE = 1000
// Milliseconds between two reads after which the leader may have been frozen. It then checks that it is still the leader.
const MAX_PAUSE = 5000
// Minimum time between a round of replies outside the log and the next round that only keeps the tabs alive, in milliseconds.
const KEEP_ALIVE_INTERVAL = 1000
// Minimum time between two replays for the same tab, in milliseconds.
const REPLAY_INTERVAL = 10_000
// Maximum number of requests of the server whose owner the leader stores.
const MAX_OWNERS = 1000
// The owner of a request of the server that no tab gets.
const NO_TAB = ''

export interface LeaderOptions {
  /** The id of the tab of the leader. */
  readonly tabId: string
  readonly fetch: Fetch
  readonly maxEventSize: number | undefined
  /** The latest request of this tab. */
  readonly streamRequest: StreamRequest
  /** Resolves with whether this tab is still the leader, and with the ids of the sessions of all tabs. */
  readonly checkLocks: () => Promise<{ readonly isLeader: boolean, readonly sessionIds: string[] }>
  readonly sendReply: (tabId: string, reply: Reply) => void
}

/** Reads the only stream of the session into a log. Each tab sends a pull with its position, and the leader replies with the blocks that follow. A request of the server has an owner: the one tab that gets it. */
export interface Leader {
  readonly onPull: (pull: Pull) => void
  readonly removeTab: (tabId: string) => void
  readonly stop: () => void
}

function formatBlock (fields: Record<string, string | undefined>, data = ''): string {
  const lines = Object.entries(fields).filter(([, value]) => value).map(([field, value]) => `${field}: ${value}`)
  if (data !== '') lines.push(...data.slice(0, -1).split('\n').map(line => `data: ${line}`))
  return `${lines.join('\n')}\n\n`
}

export function createLeader ({ tabId: ownTabId, fetch, maxEventSize = 2 ** 24, streamRequest: initialRequest, checkLocks, sendReply }: LeaderOptions): Leader {
  /** By the id of the tab. */
  const pendingPulls = new Map<string, Pull>()
  /** Whether each tab that reads from the log is visible, by its id. The tab with the latest pull is the last one. */
  const readers = new Map<string, boolean>()
  /** The tabs that get the requests of the server, by event id. */
  const ownerIds = new Map<string, string>()
  const closedSessions = new Set<string>()
  /** When a tab was behind the log and a replay was requested, by the id of the tab. From `performance.now()`, which changes of the system clock do not affect. */
  const replayTimes = new Map<string, number>()
  let latestRequest = initialRequest
  let log = new Log('')
  let state: 'idle' | 'opening' | 'open' | 'ended' = 'idle'
  let welcome: Record<string, unknown> | undefined
  // The event id of the welcome of a new session.
  let sessionStart: string | undefined
  // The block with the latest reconnection time.
  let retryText = ''
  // The blocks of the current chunk that are not in the log.
  let unloggedText = ''
  // The highest cursor that any tab has sent. Up to it, a leader has chosen the owners of the server's requests.
  let highestCursor = ''
  let startedAt = 0
  let keptAliveAt = -Infinity
  // The response with which the server has refused a stream for some time.
  let refusal: { readonly until: number, readonly content: ReplyContent } | undefined
  let controller = new AbortController()
  let welcomeTimer: ReturnType<typeof setTimeout> | undefined

  /** Ends the stream, and drops the pending pulls, which the tabs repeat. */
  const stop = (): void => {
    controller.abort()
    state = 'idle'
    pendingPulls.clear()
  }

  const reply = ({ tabId, number }: Pull, content: ReplyContent): void => {
    pendingPulls.delete(tabId)
    sendReply(tabId, { number, ...content })
  }

  const recordReader = ({ tabId, isVisible }: Pull): void => {
    readers.delete(tabId)
    readers.set(tabId, isVisible)
  }

  const replyText = (pull: Pull, text: string, { entries, position }: { entries: Entry[], position: LogPosition }): void => {
    const texts = entries.map(({ text, ownerId = pull.tabId, otherText = '' }) => ownerId === pull.tabId ? text : otherText)
    reply(pull, { kind: 'text', text: text + texts.join(''), position })
  }

  /** Returns the first position of a tab whose cursor is not of this session. */
  const chooseStart = (cursor: string): LogPosition => {
    // A tab of the previous session gets every event of the new one.
    if (cursor !== '' && log.start === sessionStart) return { cursor: log.start }
    // A new tab skips the events that the stream replays for another tab.
    return isAfter(highestCursor, log.end) ? { cursor: highestCursor } : log.endPosition
  }

  const answerStreamRequest = (pull: Pull): void => {
    const { cursor } = pull.position
    const resumed = log.isSameSession(cursor)
    const position = resumed ? pull.position : chooseStart(cursor)
    const data = { ...welcome, resumed, previous: resumed || cursor === '' ? undefined : 'unknown' }
    const text = retryText + formatBlock({ id: position.cursor, event: 'welcome' }, `${JSON.stringify(data)}\n`)
    recordReader(pull)
    replyText(pull, text, log.read(position) ?? { entries: [], position })
  }

  const answer = (pull: Pull): void => {
    const { streamRequest, position } = pull
    if (log.isBehindLog(position)) {
      if (state === 'ended') reply(pull, { kind: 'end' })
    } else if (streamRequest) {
      // A closed session is sent only to its own tabs. The others wait for the next session.
      const isTooLate = welcome?.sessionClosed === true && !log.isSameSession(position.cursor)
      if (welcome && !isTooLate) answerStreamRequest(pull)
      else if (!isTooLate || state === 'ended') reply(pull, { kind: 'end' })
    } else {
      const next = log.read(position)
      if (next) replyText(pull, '', next)
      else if (state === 'ended' || !log.isSameSession(position.cursor)) reply(pull, { kind: 'end' })
    }
  }

  const answerAll = (): void => {
    for (const pull of pendingPulls.values()) answer(pull)
  }

  /** Requests a replay for the pulls that are behind the log. Returns whether it has requested one. */
  const replayIfBehind = (): boolean => {
    const now = performance.now()
    // One slow tab must not cause replays all the time.
    const behind = [...pendingPulls.values()].filter(({ tabId, position }) => log.isBehindLog(position) && now - (replayTimes.get(tabId) ?? -Infinity) >= REPLAY_INTERVAL)
    const [slowest] = behind.sort((a, b) => parsePosition(a.position.cursor) - parsePosition(b.position.cursor))
    if (!slowest) return false
    for (const { tabId } of behind) replayTimes.set(tabId, now)
    open(slowest.position.cursor)
    return true
  }

  /** Answers after a request that has opened no stream. */
  const answerFailure = (sentRequest: StreamRequest, content: ReplyContent): void => {
    state = 'ended'
    for (const pull of pendingPulls.values()) {
      // Another tab may have newer credentials, so a permanent error applies only to the tab that has sent the request.
      const isRefused = content.kind === 'response' && content.status >= 400 && !isTransient(content.status) && pull.streamRequest !== sentRequest
      if (!pull.streamRequest) reply(pull, { kind: 'end' })
      else reply(pull, isRefused ? { kind: 'error', message: 'The request of another tab was refused' } : content)
    }
  }

  /** Starts a new log at the cursor if the log is empty or closed, or if the cursor is behind it. */
  const chooseLog = (cursor: string): void => {
    if (log.end === '' || log.end === 'closed' || log.isBehindLog({ cursor })) log = new Log(cursor)
  }

  /** Requests what follows the end of the log. If the log has no end yet, requests the session of the other tabs, which can all be frozen. */
  const requestStream = async ({ url, init }: StreamRequest, sessionIds: string[], signal: AbortSignal): Promise<Response> => {
    const { 'last-event-id': _, ...headers } = init.headers
    const sessionId = sessionIds.findLast(id => !closedSessions.has(id))
    if (log.end !== '') headers['last-event-id'] = log.end
    else if (sessionId !== undefined) headers['x-session-id'] = sessionId
    return await fetch(url, { ...init, headers, signal })
  }

  /** Adds the stream to the log until it ends. Returns early if the signal aborts, or if another tab is the leader. */
  const readStream = async (body: ReadableStream<Uint8Array>, signal: AbortSignal): Promise<void> => {
    const parse = createParser(onBlock, ms => {
      retryText = formatBlock({ retry: String(ms) })
      if (state === 'open') log.push({ cursorAfter: log.end, text: retryText })
    })
    const reader = body.getReader()
    const decoder = new TextDecoder()
    let maxPending = maxEventSize + OVERHEAD
    let lastReadAt = Date.now()
    while (!hasEnded()) {
      const { done, value } = await reader.read()
      // The new leader has replaced this stream, and chooses the owners of the server requests itself.
      if (Date.now() - lastReadAt > MAX_PAUSE && !(await checkLocks()).isLeader && !signal.aborted) stop()
      if (signal.aborted || done) return
      lastReadAt = Date.now()
      unloggedText = ''
      log.trim()
      const pending = parse(decoder.decode(value, { stream: true }))
      if (state !== 'open') continue
      // An oversized event, for which each tab closes its session with EVENT_TOO_LARGE.
      if (pending > maxPending) {
        log.push({ cursorAfter: log.end, text: formatBlock({}, `${' '.repeat(maxEventSize + 1)}\n`) })
        maxPending = Infinity
      }
      if (replayIfBehind()) return
      answerAll()
      // Resets the idle timers of the tabs, at most once per KEEP_ALIVE_INTERVAL: each reply uses up a pull. If each chunk of a large event did that, no pull would be waiting when the event is complete.
      if (unloggedText === '' && performance.now() - keptAliveAt < KEEP_ALIVE_INTERVAL) continue
      keptAliveAt = performance.now()
      for (const pull of pendingPulls.values()) if (!pull.streamRequest) reply(pull, { kind: 'text', text: unloggedText || ':\n\n', position: pull.position })
    }
  }

  // A function, because TypeScript does not see that `onBlock` changes the state.
  const hasEnded = (): boolean => state === 'ended'

  const open = async (cursor: string): Promise<void> => {
    controller.abort()
    controller = new AbortController()
    const { signal } = controller
    const sentRequest = latestRequest
    state = 'opening'
    startedAt = performance.now()
    chooseLog(cursor)
    // `contentBeforeWelcome` is what the waiting tabs get if no welcome has arrived.
    const finish = (contentBeforeWelcome: ReplyContent): void => {
      if (signal.aborted) return
      controller.abort()
      if (state === 'opening') return answerFailure(sentRequest, contentBeforeWelcome)
      state = 'ended'
      if (log.end === 'closed') closedSessions.add(parseSessionId(log.start))
      // The tabs that wait for a session do not get one that is closed already.
      const next = [...pendingPulls.values()].filter(({ streamRequest, position }) => streamRequest && log.end === 'closed' && !log.isSameSession(position.cursor))
      for (const pull of pendingPulls.values()) if (!next.includes(pull)) answer(pull)
      const [first] = next
      if (first) open(first.position.cursor)
    }
    // The tabs may have no idle timeout, if the server sends no heartbeats.
    welcomeTimer = setTimeout(finish, IDLE_TIMEOUT, { kind: 'error', message: 'The stream timed out' })
    signal.addEventListener('abort', () => { clearTimeout(welcomeTimer) })
    try {
      const { isLeader, sessionIds } = await checkLocks()
      if (signal.aborted) return
      if (!isLeader) return stop()
      const response = await requestStream(sentRequest, sessionIds, signal)
      const { ok, body, status, headers } = response
      if (body && ok && /^text\/event-stream\b/i.test(headers.get('content-type') as string)) {
        await readStream(body, signal)
        finish({ kind: 'response', status: 200, headers: [['content-type', 'text/event-stream']], text: retryText })
      } else {
        // A successful response that is no stream of the server may be endless.
        const text = ok && body ? new TextDecoder().decode((await body.getReader().read()).value) : await response.text()
        const content: ReplyContent = { kind: 'response', status, headers: [...headers], text }
        if (isTransient(status)) refusal = { until: performance.now() + parseRetryAfter(response), content }
        finish(content)
      }
    } catch (error) {
      finish({ kind: 'error', message: String(error) })
    }
  }

  const onWelcome = (cursor: string, data: Record<string, unknown>): void => {
    clearTimeout(welcomeTimer)
    if (!log.isSameSession(cursor)) {
      log = new Log(cursor)
      sessionStart = data.resumed ? undefined : cursor
    } else if (cursor !== log.end) {
      // A service worker can respond with a copy of an earlier stream.
      throw new TypeError('A cached stream')
    }
    const { previous, ...others } = data
    welcome = others
    state = 'open'
    // The chunk can contain events that the server has sent in its `onOpen` hooks.
    if (!data.resumed) for (const pull of pendingPulls.values()) if (pull.streamRequest) answerStreamRequest(pull)
  }

  const chooseOwnerId = (cursor: string): string => {
    const known = ownerIds.get(cursor)
    if (known !== undefined) return known
    // A tab has read beyond this server request from another leader, which has chosen its owner.
    if (log.isSameSession(highestCursor) && !isAfter(cursor, highestCursor)) return NO_TAB
    const visible = [...readers].findLast(([, isVisible]) => isVisible)?.[0]
    const ownerId = visible ?? (readers.has(ownTabId) ? ownTabId : [...readers.keys()].at(-1) ?? ownTabId)
    ownerIds.set(cursor, ownerId)
    if (ownerIds.size > MAX_OWNERS) ownerIds.delete(ownerIds.keys().next().value as string)
    return ownerId
  }

  const onBlock = (id: string | undefined, event: string, data: string, acknowledgement: string): void => {
    if (event === 'welcome' && data !== '') return onWelcome(id as string, JSON.parse(data))
    if (event === 'replaced') {
      // Another tab has become the leader, or this one has sent two requests that arrived in the other order.
      state = 'ended'
      welcome = undefined
    }
    if (state !== 'open' || (id === undefined && data === '')) return
    const text = formatBlock({ id, event, request: acknowledgement }, data)
    if (id === undefined) {
      unloggedText += text
      return
    }
    const isServerRequest = event === 'request'
    const gap = event === 'gap' ? JSON.parse(data) as { resumedAt: number, reason?: string } : undefined
    // The server assigns the positions after a rollback again.
    if (gap?.reason === 'store') {
      highestCursor = id
      ownerIds.clear()
    }
    log.push({
      cursorAfter: id,
      text,
      ...(isServerRequest || acknowledgement) && { ownerId: chooseOwnerId(id), otherText: isServerRequest ? formatBlock({ id }) : formatBlock({ id, event }, data) },
      ...gap && { gapEnd: gap.resumedAt }
    })
    if (id === 'closed') state = 'ended'
  }

  return {
    onPull (pull) {
      const { tabId, number, position: { cursor }, streamRequest, previousAborted } = pull
      if (!streamRequest) recordReader(pull)
      if (isAfter(cursor, highestCursor) || !log.isSameSession(highestCursor)) highestCursor = cursor
      if (pendingPulls.get(tabId)?.number === number) {
        sendReply(tabId, { number, kind: 'pending' })
        if (state === 'open') replayIfBehind()
        return
      }
      pendingPulls.set(tabId, pull)
      if (streamRequest) latestRequest = streamRequest
      const isStale = previousAborted && performance.now() - startedAt > MIN_STREAM_AGE
      if (state === 'idle' || (streamRequest && (state === 'ended' || isStale))) {
        if (streamRequest && refusal && performance.now() < refusal.until) reply(pull, refusal.content)
        else open(cursor)
      } else if (state === 'ended' || (state === 'open' && !replayIfBehind())) {
        answerAll()
      }
    },
    removeTab (tabId) {
      pendingPulls.delete(tabId)
      readers.delete(tabId)
      replayTimes.delete(tabId)
    },
    stop
  }
}
