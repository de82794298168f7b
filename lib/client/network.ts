/** Milliseconds without data after which a stream counts as dead, if its heartbeat interval is not known. */
export const IDLE_TIMEOUT = 37_500

/** Whether the browser reports that it has no network, so that a request cannot reach a server. */
export const isOffline = (): boolean => globalThis.navigator?.onLine === false
