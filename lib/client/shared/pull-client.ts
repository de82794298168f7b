import { abortReason } from '../abort.js'
import { listen, post } from './channels.js'
import type { Election } from './election.js'
import type { LogPosition } from './log.js'
import type { Pull, Reply, ReplyContent, StreamRequest } from './messages.js'

// Minimum time after which a tab repeats a pull, in milliseconds. After a third time without an answer, it becomes the leader.
const ANSWER_TIMEOUT = 4000

/** Sends the pulls of a tab to the current leader, one at a time, and replaces a leader that does not answer. */
export interface PullClient {
  /** Requests what follows a position. `streamRequest` is set for the first pull of a stream. Rejects with the reason of the signal if that aborts. */
  requestNext (signal: AbortSignal, position: LogPosition, streamRequest?: StreamRequest): Promise<ReplyContent>
  /** Sends the current pull to a new leader. */
  onLeaderChange (): void
}

export function createPullClient (tabId: string, replyChannel: string, election: Election, signal: AbortSignal): PullClient {
  let currentPull: { readonly pull: Omit<Pull, 'isVisible'>, readonly onReply: (reply: Reply) => void } | undefined
  let nextNumber = 0
  let previousAborted = false
  // Number of times in succession that the current leader has not answered in time.
  let unansweredCount = 0

  const sendPull = (): void => {
    const { leaderChannel } = election
    if (!currentPull || leaderChannel === undefined) return
    const isVisible = globalThis.document?.visibilityState === 'visible'
    post(leaderChannel, { ...currentPull.pull, isVisible } satisfies Pull)
  }

  const onLeaderChange = (): void => {
    unansweredCount = 0
    sendPull()
  }

  const onTimeout = async (): Promise<void> => {
    const timedOut = currentPull
    unansweredCount++
    await election.refresh()
    if (timedOut !== currentPull) return
    if (unansweredCount < 3) return sendPull()
    unansweredCount = 0
    election.run(true)
  }

  listen(replyChannel, signal, (reply: Reply) => { if (reply.number === currentPull?.pull.number) currentPull.onReply(reply) })
  // The leader chooses a visible tab for the requests of the server.
  globalThis.document?.addEventListener('visibilitychange', sendPull, { signal })
  return {
    onLeaderChange,
    requestNext: (streamSignal, position, streamRequest) => new Promise((resolve, reject) => {
      if (streamSignal.aborted) throw abortReason(streamSignal)
      const stop = (): void => {
        clearInterval(timer)
        streamSignal.removeEventListener('abort', onAbort)
        currentPull = undefined
      }
      const onAbort = (): void => {
        stop()
        previousAborted = true
        reject(abortReason(streamSignal))
      }
      streamSignal.addEventListener('abort', onAbort)
      // The interval differs between the tabs, so that one tab replaces the leader before the others try to.
      const timer = setInterval(onTimeout, ANSWER_TIMEOUT * (1 + Math.random() / 5))
      unansweredCount = 0
      currentPull = {
        pull: { tabId, number: nextNumber++, position, ...streamRequest && { streamRequest, previousAborted } },
        onReply: reply => {
          unansweredCount = 0
          if (reply.kind === 'pending') return
          stop()
          resolve(reply)
        }
      }
      if (!streamRequest) return sendPull()
      previousAborted = false
      // The tab may have missed the announcement of the leader while it was frozen.
      election.refresh().then(sendPull)
    })
  }
}
