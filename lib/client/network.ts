/** Whether the browser reports that it has no network, so that a request cannot reach a server. */
export const isOffline = (): boolean => globalThis.navigator?.onLine === false
