import { abortReason } from '../abort.js'
import { listen, post } from './channels.js'
import type { Election } from './election.js'
import type { LogPosition } from './log.js'
import type { Pull, Reply, ReplyContent, StreamRequest } from './messages.js'

// Minimum time after which a tab repeats a pull, in milliseconds. After a third time without an answer, it becomes the leader.
const ANSWER_TIMEOUT = 4000

/** Sends the pulls of a tab to the current leader, one at a time, and replaces a leader that does not answer. */
export interface PullClient {
  /** Requests what follows a position. `request` is set for the first pull of a stream. Rejects with the reason of the signal if that aborts. */
  requestNext (signal: AbortSignal, position: LogPosition, request?: StreamRequest): Promise<ReplyContent>
  /** Sends the current pull to a new leader. */
  onLeaderChange (): void
}

export function createPullClient (tab: string, replyChannel: string, election: Election, signal: AbortSignal): PullClient {
  let current: { readonly pull: Omit<Pull, 'isVisible'>, readonly onReply: (reply: Reply) => void } | undefined
  let pullCount = 0
  let previousAborted = false
  // Number of times in succession that the current leader has not answered in time.
  let missed = 0

  const send = (): void => {
    const { leaderChannel } = election
    if (!current || leaderChannel === undefined) return
    const isVisible = globalThis.document?.visibilityState === 'visible'
    post(leaderChannel, { ...current.pull, isVisible } satisfies Pull)
  }

  const onLeaderChange = (): void => {
    missed = 0
    send()
  }

  const onTimeout = async (): Promise<void> => {
    const timedOut = current
    missed++
    await election.refresh()
    if (timedOut !== current) return
    if (missed < 3) return send()
    missed = 0
    election.run(true)
  }

  listen(replyChannel, signal, (reply: Reply) => { if (reply.number === current?.pull.number) current.onReply(reply) })
  // The leader chooses a visible tab for the requests of the server.
  globalThis.document?.addEventListener('visibilitychange', send, { signal })
  return {
    onLeaderChange,
    requestNext: (streamSignal, position, request) => new Promise((resolve, reject) => {
      if (streamSignal.aborted) throw abortReason(streamSignal)
      const stop = (): void => {
        clearInterval(timer)
        streamSignal.removeEventListener('abort', onAbort)
        current = undefined
      }
      const onAbort = (): void => {
        stop()
        previousAborted = true
        reject(abortReason(streamSignal))
      }
      streamSignal.addEventListener('abort', onAbort)
      // At different times in each tab, so that one of them replaces the leader, and the others notice that.
      const timer = setInterval(onTimeout, ANSWER_TIMEOUT * (1 + Math.random() / 5))
      missed = 0
      current = {
        pull: { tab, number: pullCount++, position, ...request && { request, previousAborted } },
        onReply: reply => {
          missed = 0
          if (reply.kind === 'pending') return
          stop()
          resolve(reply)
        }
      }
      if (!request) return send()
      previousAborted = false
      // The tab may have missed the announcement of the leader while it was frozen.
      election.refresh().then(send)
    })
  }
}
