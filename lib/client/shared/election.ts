import { listen, post } from './channels.js'
import { acquireLock, queryLocks, waitForAbort } from './locks.js'

export interface ElectionOptions {
  /** The name of the lock of the leader, and of the channel for the announcements of new leaders. */
  readonly name: string
  /** Ends the participation of this tab. */
  readonly signal: AbortSignal
  /** The leader, or its channel, has changed. */
  readonly onChange: () => void
  /** This tab is the leader, and receives messages in its channel, until the signal aborts. */
  readonly onElected: (channel: string, signal: AbortSignal) => void
}

/**
 * Elects a leader among the tabs with the same name. The leader has the lock `name`. A tab that does not respond, because it is frozen,
 * can lose this lock without noticing it. So each leader has an epoch, a number that increases, and a lock with that number in its name:
 * the current leader is the one with the highest epoch, whatever announcements a tab has received or missed.
 */
export interface Election {
  /** The channel of the current leader; `undefined` before this tab knows one. */
  readonly leaderChannel: string | undefined
  /** Whether this tab is the leader. Stays true after `close()`, so that the last tab can delete the session. */
  readonly isLeader: boolean
  /** Waits until the leader releases its lock, and becomes the leader then. `steal` does not wait. */
  run (steal?: boolean): Promise<void>
  /** Finds the leader whose announcement this tab may have missed. */
  refresh (): Promise<void>
}

export function createElection ({ name, signal, onChange, onElected }: ElectionOptions): Election {
  const prefix = `${name} leader `
  let epoch = 0
  let isLeader = false
  // Aborts when this tab is neither a candidate nor the leader any more.
  let candidacy = new AbortController()

  const onEpoch = (newEpoch: number): void => {
    if (newEpoch <= epoch) return
    epoch = newEpoch
    onChange()
  }

  const refresh = async (): Promise<void> => {
    // The query fails in a page that is being closed.
    for (const id of await queryLocks(prefix).catch(() => [])) onEpoch(Number(id))
  }

  const run = async (steal = false): Promise<void> => {
    candidacy.abort()
    if (signal.aborted) return
    const controller = candidacy = new AbortController()
    const { signal: candidacySignal } = controller
    let hadLock = false
    try {
      await navigator.locks.request(name, steal ? { steal } : { signal: candidacySignal }, async () => {
        hadLock = true
        await refresh()
        // The epoch is at least the current time, because the epoch of the latest leader is unknown if its lock no longer exists.
        const ownEpoch = Math.max(epoch + 1, Date.now())
        await acquireLock(prefix + ownEpoch, candidacySignal)
        candidacySignal.throwIfAborted()
        isLeader = true
        onElected(prefix + ownEpoch, candidacySignal)
        onEpoch(ownEpoch)
        post(name, ownEpoch)
        await waitForAbort(candidacySignal)
      })
    } catch {
      if (candidacySignal.aborted) return
      // Another tab has stolen the lock, because this one was frozen.
      isLeader = false
      controller.abort()
      if (hadLock) run()
    }
  }

  listen(name, signal, onEpoch)
  signal.addEventListener('abort', () => { candidacy.abort() })
  return {
    get leaderChannel () { return epoch === 0 ? undefined : prefix + epoch },
    get isLeader () { return isLeader },
    run,
    refresh
  }
}
