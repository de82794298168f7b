import { queryLocks } from './locks.js'

// Milliseconds without a pull after which this tab may have been frozen, so that another one is the leader. Longer than the longest time
// between two pulls of this tab, and shorter than the shortest time after which another tab replaces a leader: two answer timeouts.
const MAX_PAUSE = 6000

/** Tracks the other tabs. Each tab has a lock until it is closed or has crashed. */
export interface TabTracker {
  /** Whether no other tab is open. `false` if that is not known. */
  readonly isOnlyTab: boolean
  /** Adds a tab that has sent a message. */
  add (tabId: string): void
}

/** `prefix` is what precedes the id of a tab in the name of its lock. `onClose` is called with the ids of tabs that were closed. */
export function createTabTracker (prefix: string, ownTabId: string, signal: AbortSignal, onClose: (tabId: string) => void): TabTracker {
  const tabIds = new Set<string>()
  let isComplete = false
  let activeAt = Date.now()

  const add = (tabId: string): void => {
    activeAt = Date.now()
    if (tabId === ownTabId || tabIds.has(tabId)) return
    tabIds.add(tabId)
    navigator.locks.request(prefix + tabId, { signal }, () => {
      tabIds.delete(tabId)
      onClose(tabId)
    }).catch(() => {})
  }

  queryLocks(prefix).then(ids => {
    ids.forEach(add)
    isComplete = true
  }).catch(() => {})
  return {
    get isOnlyTab () { return isComplete && tabIds.size === 0 && Date.now() - activeAt < MAX_PAUSE },
    add
  }
}
