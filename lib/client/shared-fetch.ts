import { abortReason } from './abort.js'
import type { ConnectOptions, Fetch } from './options.js'
import { listen, post } from './shared/channels.js'
import { createElection } from './shared/election.js'
import { createLeader } from './shared/leader.js'
import { acquireLock, queryLocks } from './shared/locks.js'
import { parseSessionId } from './shared/log.js'
import type { Pull, ReplyContent, StreamRequest } from './shared/messages.js'
import { createPullClient } from './shared/pull-client.js'
import { createSubscriptionTracker } from './shared/subscription-tracker.js'
import { createTabTracker, type TabTracker } from './shared/tab-tracker.js'

/** Adds this tab to the shared session. Resolves with the `fetch` for its requests. `closed` aborts when the tab closes its session. */
async function join (url: string, fetch: Fetch, options: ConnectOptions, closed: AbortSignal): Promise<Fetch> {
  const tab = crypto.randomUUID()
  const name = `fastify-sse-sessions ${JSON.stringify([new URL(url, globalThis.location?.href).href, options.shared])}`
  const tabPrefix = `${name} tab `
  const sessionPrefix = `${name} session `
  // Aborts when the tab leaves the shared session. Everything else ends with it.
  const leaveController = new AbortController()
  const { signal: left } = leaveController
  const subscriptions = createSubscriptionTracker()
  const encoder = new TextEncoder()
  let latestRequest: StreamRequest | undefined
  let streamSignal: AbortSignal | undefined
  let tracker: TabTracker | undefined
  let sessionController = new AbortController()
  let sessionId: string | undefined
  let messageUrl = ''

  // First, because they fail without BroadcastChannel and Web Locks.
  new BroadcastChannel(name).close()
  await acquireLock(tabPrefix + tab, left)
  const election = createElection({
    name,
    signal: left,
    onChange: () => { pullClient.onLeaderChange() },
    lead: (channel, signal) => {
      const leader = createLeader({
        tab,
        fetch,
        maxEventSize: options.maxEventSize,
        request: latestRequest as StreamRequest,
        checkLocks: async () => {
          await election.refresh()
          return { isLeader: election.leaderChannel === channel, sessionIds: await queryLocks(sessionPrefix) }
        },
        sendReply: (other, reply) => { post(tabPrefix + other, reply) }
      })
      const ownTracker = tracker = createTabTracker(tabPrefix, tab, signal, leader.removeTab)
      listen(channel, signal, (pull: Pull) => {
        ownTracker.add(pull.tab)
        leader.onPull(pull)
      })
      signal.addEventListener('abort', leader.stop)
    }
  })
  const pullClient = createPullClient(tab, tabPrefix + tab, election, left)

  /** Acquires the lock from which a new leader without a cursor finds the session, even if all other tabs are frozen. */
  const holdSession = (id: string): void => {
    if (id === sessionId) return
    sessionId = id
    sessionController.abort()
    sessionController = new AbortController()
    acquireLock(sessionPrefix + id, sessionController.signal, 'shared').catch(() => {})
  }

  const openStream = async (request: StreamRequest, signal: AbortSignal): Promise<Response> => {
    const first = await pullClient.requestNext(signal, { cursor: request.init.headers['last-event-id'] ?? '' }, request)
    if (first.kind === 'response') return new Response(first.text || null, first)
    if (first.kind !== 'text') throw new TypeError(first.kind === 'error' ? first.message : 'The stream has ended')
    holdSession(parseSessionId(first.position.cursor))
    let reply: ReplyContent | undefined = first
    let position = first.position
    return new Response(new ReadableStream<Uint8Array>({
      async pull (controller) {
        reply ??= await pullClient.requestNext(signal, position)
        if (reply.kind !== 'text') return controller.close()
        position = reply.position
        subscriptions.onStream(reply.text)
        controller.enqueue(encoder.encode(reply.text))
        reply = undefined
      }
    // Without a buffer, so that the tab requests nothing after the `close` event.
    }, { highWaterMark: 0 }), { headers: { 'content-type': 'text/event-stream' } })
  }

  /** Leaves after `close()`. A request that may still open a session continues before, so that its session can be deleted. */
  const leaveIfClosed = (): void => {
    if (closed.aborted && streamSignal?.aborted !== false) leaveController.abort()
  }

  const isLast = (): boolean => election.isLeader && tracker?.isAlone === true

  /** Deletes the session if no other tab continues it. Otherwise, stops the streaming handlers of this tab. */
  const deleteSession = async (url: string, init: RequestInit): Promise<Response> => {
    if (isLast()) return await fetch(url, init)
    const body = subscriptions.createStopBody()
    if (body !== '') await fetch(messageUrl, { ...init, method: 'POST', headers: { ...init.headers as Record<string, string>, 'content-type': 'application/x-ndjson' }, body })
    return new Response(null, { status: 204 })
  }

  left.addEventListener('abort', () => { sessionController.abort() })
  closed.addEventListener('abort', leaveIfClosed)
  leaveIfClosed()

  return async (url, init) => {
    const { method, body, signal, ...others } = init
    if (method === 'DELETE') return await deleteSession(url, init)
    if (method === 'POST') {
      messageUrl = url
      subscriptions.onRequest(body as string)
      return await fetch(url, init)
    }
    // The tab has left already if `close()` was called while it joined.
    if (left.aborted) throw abortReason(left)
    streamSignal = signal as AbortSignal
    streamSignal.addEventListener('abort', leaveIfClosed)
    const isFirst = latestRequest === undefined
    latestRequest = { url, init: others as StreamRequest['init'] }
    if (isFirst) election.run()
    return await openStream(latestRequest, streamSignal)
  }
}

/** By the signal that aborts when the session is closed. */
const tabFetches = new WeakMap<AbortSignal, Promise<Fetch>>()

/**
 * Creates a `fetch` for a session that the tabs of an origin share. A GET is answered from the stream of the leader. A DELETE is sent
 * only by the last tab. A POST is sent unchanged. Without Web Locks or BroadcastChannel, every request is sent unchanged.
 */
export function sharedFetch (fetch: Fetch, options: ConnectOptions, closed: AbortSignal): Fetch {
  return async (url, init) => {
    let tabFetch = tabFetches.get(closed)
    if (!tabFetch) tabFetches.set(closed, tabFetch = join(url, fetch, options, closed).catch(() => fetch))
    const send = await tabFetch
    // The session may have been closed meanwhile.
    if (init.signal?.aborted) throw abortReason(init.signal)
    return await send(url, init)
  }
}
