import type { Connection } from './connection.js'
import { createRequestError } from './errors.js'

/** What a listener reads from the events of a page. */
type PageEvent = Partial<Pick<PageTransitionEvent, 'persisted'> & Pick<SecurityPolicyViolationEvent, 'blockedURI' | 'disposition'>>

type NetworkInformation = EventTarget & { readonly effectiveType: string }

/**
 * Listens to the page or worker, if there is one. Checks the connection when it may be dead, and calls `close` when the page is
 * closed or reloaded. `urls` contains the URLs of the requests. Removes its listeners when the signal aborts.
 */
export function addPageListeners (connection: Connection, urls: ReadonlyMap<string, string>, close: () => void, signal: AbortSignal): void {
  const { document, navigator } = globalThis
  const network = (navigator as { connection?: NetworkInformation } | undefined)?.connection
  const scope = document?.defaultView ?? globalThis
  // The global objects of Node and React Native are not event targets.
  const add = (target: Partial<EventTarget> | null | undefined, event: string, run: (event: PageEvent) => void): void => {
    target?.addEventListener?.(event, run as (event: Event) => void, { signal })
  }
  let networkType = network?.effectiveType
  add(scope, 'online', () => { connection.onOnline() })
  add(scope, 'pageshow', ({ persisted }) => { if (persisted) connection.reconnect() })
  add(scope, 'pagehide', ({ persisted }) => { if (!persisted) close() })
  add(document, 'visibilitychange', () => { if (!document.hidden) connection.probe() })
  add(document ?? scope, 'securitypolicyviolation', ({ blockedURI, disposition }) => {
    if (disposition === 'enforce' && [...urls.values()].includes(blockedURI as string)) {
      connection.fail(createRequestError(new Error('Content-Security-Policy')))
    }
  })
  add(network, 'change', () => {
    const previousType = networkType
    networkType = network?.effectiveType
    if (networkType !== previousType) connection.probe()
  })
}
