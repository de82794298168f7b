import type { Sessions } from '../../../lib/index.js'
import { MemoryQueue } from '../../../lib/store/memory/memory-queue.js'
import { kStream } from '../../../lib/sessions/session.js'
import { until } from '../../support/wait.js'

/** Resolves when this many messages of a session wait for the one that is being handled. */
export function waitForWaitingMessages (sessions: Sessions, sessionId: string, count: number): Promise<void> {
  // The queue does not expose its length. It has no capacity for `excess` more messages as soon as `count` are waiting.
  const excess = sessions.settings.maxWaitingMessages - count + 1
  return until(async () => {
    try {
      const queue = (await sessions.find(sessionId))?.[kStream].messageQueue
      if (queue instanceof MemoryQueue) queue.assertCapacity(excess)
      return false
    } catch {
      return true
    }
  }, `${count} messages to wait`)
}
