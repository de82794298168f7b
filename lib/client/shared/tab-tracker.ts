import { queryLocks } from './locks.js'

// Milliseconds without a pull after which this tab may have been frozen, so that another one is the leader. Longer than the longest time
// between two pulls of this tab, and shorter than the shortest time after which another tab replaces a leader: two answer timeouts.
const MAX_PAUSE = 6000

/** Tracks the other tabs. Each tab has a lock until it is closed or has crashed. */
export interface TabTracker {
  /** Whether no other tab is open; `false` if that is not known. */
  readonly isAlone: boolean
  /** Adds a tab that has sent a message. */
  add (tab: string): void
}

/** `prefix` is what precedes the id of a tab in the name of its lock. `onClose` is called with the ids of tabs that were closed. */
export function createTabTracker (prefix: string, ownTab: string, signal: AbortSignal, onClose: (tab: string) => void): TabTracker {
  const tabs = new Set<string>()
  let isComplete = false
  let activeAt = Date.now()

  const add = (tab: string): void => {
    activeAt = Date.now()
    if (tab === ownTab || tabs.has(tab)) return
    tabs.add(tab)
    navigator.locks.request(prefix + tab, { signal }, () => {
      tabs.delete(tab)
      onClose(tab)
    }).catch(() => {})
  }

  queryLocks(prefix).then(ids => {
    ids.forEach(add)
    isComplete = true
  }).catch(() => {})
  return {
    get isAlone () { return isComplete && tabs.size === 0 && Date.now() - activeAt < MAX_PAUSE },
    add
  }
}
