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

/** Adds this tab to the group that shares a session. Resolves with the `fetch` for its requests. `closeSignal` aborts when the tab closes its session. */
async function createTabFetch (url: string, fetch: Fetch, options: ConnectOptions, closeSignal: AbortSignal): Promise<Fetch> {
  const tabId = crypto.randomUUID()
  const groupName = `fastify-sse-sessions ${JSON.stringify([new URL(url, globalThis.location?.href).href, options.shared])}`
  const tabPrefix = `${groupName} tab `
  const sessionPrefix = `${groupName} session `
  // Aborts when the tab leaves the group. Everything else ends with it.
  const leaveController = new AbortController()
  const { signal: leaveSignal } = leaveController
  const subscriptions = createSubscriptionTracker()
  const encoder = new TextEncoder()
  let latestRequest: StreamRequest | undefined
  let streamSignal: AbortSignal | undefined
  let tracker: TabTracker | undefined
  let sessionController = new AbortController()
  let sessionId: string | undefined
  let messageUrl = ''

  // These two calls come first, because they fail without BroadcastChannel and Web Locks.
  new BroadcastChannel(groupName).close()
  await acquireLock(tabPrefix + tabId, leaveSignal)
  const election = createElection({
    name: groupName,
    signal: leaveSignal,
    onChange: () => { pullClient.onLeaderChange() },
    onElected: (channel, signal) => {
      const leader = createLeader({
        tabId,
        fetch,
        maxEventSize: options.maxEventSize,
        streamRequest: latestRequest as StreamRequest,
        checkLocks: async () => {
          await election.refresh()
          return { isLeader: election.leaderChannel === channel, sessionIds: await queryLocks(sessionPrefix) }
        },
        sendReply: (otherId, reply) => { post(tabPrefix + otherId, reply) }
      })
      const ownTracker = tracker = createTabTracker(tabPrefix, tabId, signal, leader.removeTab)
      listen(channel, signal, (pull: Pull) => {
        ownTracker.add(pull.tabId)
        leader.onPull(pull)
      })
      signal.addEventListener('abort', leader.stop)
    }
  })
  const pullClient = createPullClient(tabId, tabPrefix + tabId, election, leaveSignal)

  /** Acquires the lock from which a new leader without a cursor finds the session, even if all other tabs are frozen. */
  const acquireSessionLock = (id: string): void => {
    if (id === sessionId) return
    sessionId = id
    sessionController.abort()
    sessionController = new AbortController()
    acquireLock(sessionPrefix + id, sessionController.signal, 'shared').catch(() => {})
  }

  const openStream = async (streamRequest: StreamRequest, signal: AbortSignal): Promise<Response> => {
    const first = await pullClient.requestNext(signal, { cursor: streamRequest.init.headers['last-event-id'] ?? '' }, streamRequest)
    // A 200 has a body, also if that is empty. A response without content, such as a 304, must not have one.
    if (first.kind === 'response') return new Response(first.status === 200 ? first.text : first.text || null, first)
    if (first.kind !== 'text') throw new TypeError(first.kind === 'error' ? first.message : 'The stream has ended')
    acquireSessionLock(parseSessionId(first.position.cursor))
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

  /** Leaves after `close()`, but not before the current request for a stream ends, because the session that it opens must be deleted. */
  const leaveIfClosed = (): void => {
    if (closeSignal.aborted && streamSignal?.aborted !== false) leaveController.abort()
  }

  const isLastTab = (): boolean => election.isLeader && tracker?.isOnlyTab === true

  /** Deletes the session if no other tab continues it. Otherwise, stops the streaming handlers of this tab. */
  const deleteSession = async (url: string, init: RequestInit): Promise<Response> => {
    if (isLastTab()) return await fetch(url, init)
    const body = subscriptions.createStopBody()
    if (body !== '') await fetch(messageUrl, { ...init, method: 'POST', headers: { ...init.headers as Record<string, string>, 'content-type': 'application/x-ndjson' }, body })
    return new Response(null, { status: 204 })
  }

  leaveSignal.addEventListener('abort', () => { sessionController.abort() })
  closeSignal.addEventListener('abort', leaveIfClosed)
  leaveIfClosed()

  return async (url, init) => {
    const { method, body, signal, ...others } = init
    if (method === 'DELETE') return await deleteSession(url, init)
    if (method === 'POST') {
      messageUrl = url
      subscriptions.onRequest(body as string)
      return await fetch(url, init)
    }
    // `close()` may have been called before the tab has joined the group.
    if (leaveSignal.aborted) throw abortReason(leaveSignal)
    streamSignal = signal as AbortSignal
    streamSignal.addEventListener('abort', leaveIfClosed)
    const isFirst = latestRequest === undefined
    latestRequest = { url, init: others as StreamRequest['init'] }
    if (isFirst) election.run()
    return await openStream(latestRequest, streamSignal)
  }
}

/** By the close signal of the session. */
const tabFetches = new WeakMap<AbortSignal, Promise<Fetch>>()

/**
 * Creates a `fetch` for a session that the tabs of an origin share. A GET is answered from the stream of the leader. A DELETE is sent
 * only by the last tab. A POST is sent unchanged. Without Web Locks or BroadcastChannel, every request is sent unchanged.
 */
export function sharedFetch (fetch: Fetch, options: ConnectOptions, closeSignal: AbortSignal): Fetch {
  return async (url, init) => {
    let tabFetch = tabFetches.get(closeSignal)
    if (!tabFetch) tabFetches.set(closeSignal, tabFetch = createTabFetch(url, fetch, options, closeSignal).catch(() => fetch))
    const send = await tabFetch
    // The session may have been closed meanwhile.
    if (init.signal?.aborted) throw abortReason(init.signal)
    return await send(url, init)
  }
}
