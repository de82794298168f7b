import type { Sessions } from '../../../lib/index.js'
import { LocalMailbox } from '../../../lib/store/mailbox.js'
import { until } from '../../support/wait.js'

/** Resolves when so many messages of a session wait for the one that is being handled. */
export function waitForWaiting (sessions: Sessions, sessionId: string, count: number): Promise<void> {
  const room = sessions.settings.maxWaitingMessages - count + 1
  return until(async () => {
    try {
      const mailbox = (await sessions.find(sessionId))?.mailbox
      if (mailbox instanceof LocalMailbox) mailbox.reserve(room)
      return false
    } catch {
      return true
    }
  }, `${count} messages to wait`)
}
