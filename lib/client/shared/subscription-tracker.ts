/**
 * Tracks the subscriptions of a tab whose handlers may run on the server. They end with the session, but not with the tab,
 * if other tabs continue the session.
 */
export interface SubscriptionTracker {
  /** Reads the body of a request with messages. */
  readonly onRequest: (body: string) => void
  /** Reads the text of the stream. */
  readonly onStream: (text: string) => void
  /** Returns the body of a request that stops the handlers. Empty if there are none. */
  readonly createStopBody: () => string
}

export function createSubscriptionTracker (): SubscriptionTracker {
  const ids = new Set<string>()
  return {
    onRequest (body) {
      // The id of a message is its last property. Only those of subscriptions start with a letter.
      for (const [, id] of body.matchAll(/"id":"(s[^"]+)"}$/gm)) ids.add(id as string)
      for (const [, id] of body.matchAll(/^{"event":"part","data":{"message":"([^"]+)"/gm)) ids.delete(id as string)
    },
    onStream (text) {
      for (const [, id] of text.matchAll(/^data: {"message":"([^"]+)","end":/gm)) ids.delete(id as string)
    },
    createStopBody: () => [...ids].map(message => JSON.stringify({ event: 'part', data: { message } })).join('\n')
  }
}
