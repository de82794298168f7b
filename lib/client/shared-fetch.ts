import type { ConnectOptions, Fetch } from './options.js'
import { createLeader, type Leader } from './shared/leader.js'
import { sessionOf } from './shared/log.js'
import type { Pull, Reply, StreamRequest } from './shared/messages.js'

// Milliseconds after which a tab repeats a pull. After a second time without an answer, it becomes the leader.
const ANSWER_TIMEOUT = 5000

const post = (channel: string, message: unknown): void => {
  // A channel that stayed open would also receive the messages of other tabs, without limit while this one is frozen.
  const sender = new BroadcastChannel(channel)
  sender.postMessage(message)
  sender.close()
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
    const newLeader = leader = createLeader({
      tab,
      fetch,
      maxEventSize: options.maxEventSize,
      request,
      findSessionId: async () => (await heldLocks(sessionLock)).at(-1),
      sendReply: (other, reply) => { post(tabLock(other), reply) }
    })
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
