import { createParser } from '../event-stream-parser.js'
import type { Fetch } from '../options.js'
import { Log, positionOf, type Position } from './log.js'
import type { Pull, Reply, ReplyContent, StreamRequest } from './messages.js'

// Minimum age of a stream that the leader replaces because a tab has given it up, in milliseconds.
const MIN_STREAM_AGE = 1000

function formatBlock (fields: Record<string, string | undefined>, data = ''): string {
  const lines = Object.entries(fields).filter(([, value]) => value).map(([field, value]) => `${field}: ${value}`)
  if (data !== '') lines.push(...data.slice(0, -1).split('\n').map(line => `data: ${line}`))
  return `${lines.join('\n')}\n\n`
}

export interface LeaderOptions {
  /** The id of the tab of the leader. */
  readonly tab: string
  readonly fetch: Fetch
  readonly maxEventSize: number | undefined
  /** The first request of this tab. */
  readonly request: StreamRequest
  /** Finds the session of the other tabs, if there is one. */
  readonly findSessionId: () => Promise<string | undefined>
  readonly sendReply: (tab: string, reply: Reply) => void
}

/** Has the only stream of the session, and passes it on. */
export interface Leader {
  readonly onPull: (pull: Pull) => void
  readonly removeTab: (tab: string) => void
  readonly stop: () => void
}

export function createLeader ({ tab: ownTab, fetch, maxEventSize = 2 ** 24, request: initialRequest, findSessionId, sendReply }: LeaderOptions): Leader {
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
