import type { Sessions } from '../../../lib/index.js'
import { MemoryQueue } from '../../../lib/store/memory/memory-queue.js'
import { kInternals } from '../../../lib/sessions/session.js'
import { waitUntil } from '../../support/wait.js'

/** Resolves when this many messages of a session wait for the one that is being handled. */
export function waitForWaitingMessages (sessions: Sessions, sessionId: string, count: number): Promise<void> {
  // The queue does not expose its length. It has no capacity for `excess` more messages as soon as `count` are waiting.
  const excess = sessions.settings.maxWaitingMessages - count + 1
  return waitUntil(async () => {
    try {
      const queue = (await sessions.find(sessionId))?.[kInternals].messageQueue
      if (queue instanceof MemoryQueue) queue.assertCapacity(excess)
      return false
    } catch {
      return true
    }
  }, `${count} messages to wait`)
}
