import type { Sessions } from '../../../lib/index.js'
import { MemoryQueue } from '../../../lib/store/memory/memory-queue.js'
import { kStream } from '../../../lib/sessions/session.js'
import { until } from '../../support/wait.js'

/** Resolves when so many messages of a session wait for the one that is being handled. */
export function waitForWaiting (sessions: Sessions, sessionId: string, count: number): Promise<void> {
  const room = sessions.settings.maxWaitingMessages - count + 1
  return until(async () => {
    try {
      const mailbox = (await sessions.find(sessionId))?.[kStream].messageQueue
      if (mailbox instanceof MemoryQueue) mailbox.assertCapacity(room)
      return false
    } catch {
      return true
    }
  }, `${count} messages to wait`)
}
