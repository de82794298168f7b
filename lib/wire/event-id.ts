/** The id of the event that ends a session: a client that comes back with it is told to stop. */
export const CLOSED_ID = 'closed'

/** What an event's id says: whose log, and how far. */
export interface EventId {
  readonly sessionId: string
  readonly position: number
}

// 18 bytes as base64url, and at most the 11 digits that the largest safe integer takes.
const PATTERN = /^([\w-]{24})\.([0-9a-z]{1,11})$/

/** `<sessionId>.<position, base36>`: printable ASCII well under 128 bytes, so that every browser returns it unchanged. */
export function formatEventId (sessionId: string, position: number): string {
  return `${sessionId}.${position.toString(36)}`
}

/** Reads an event's id back; `undefined` where the text is not one of ours. */
export function parseEventId (text: string): EventId | undefined {
  const [, sessionId, digits] = PATTERN.exec(text) ?? []
  if (sessionId === undefined || digits === undefined) return undefined
  const position = Number.parseInt(digits, 36)
  return Number.isSafeInteger(position) ? { sessionId, position } : undefined
}
