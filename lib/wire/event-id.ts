import { randomFillSync } from 'node:crypto'

/** The id of the event that ends a session: a client that comes back with it is told to stop. */
export const CLOSED_ID = 'closed'

/** What an event's id says: whose log, and how far. */
export interface EventId {
  readonly sessionId: string
  readonly position: number
}

// 18 bytes as base64url, and at most the 11 digits that the largest safe integer takes.
const PATTERN = /^([\w-]{24})\.([0-9a-z]{1,11})$/

const SECRET = 18
// One call of the generator serves many sessions: the call costs much, its bytes little.
const randomness = Buffer.alloc(SECRET * 128)
let used = randomness.length

/** Makes a session's id: 18 random bytes, base64url. */
export function createSessionId (): string {
  if (used === randomness.length) {
    randomFillSync(randomness)
    used = 0
  }
  const start = used
  used += SECRET
  const id = randomness.toString('base64url', start, used)
  randomness.fill(0, start, used)
  return id
}

/** Whether a text may be the id of a session. */
export function isSessionId (text: string): boolean {
  return /^[\w-]{24}$/.test(text)
}

/** `<sessionId>.<position, base36>`: printable ASCII well under 128 bytes, so that every browser returns it unchanged. */
export function formatEventId (sessionId: string, position: number): string {
  return startEventId(sessionId) + endEventId(position)
}

/** What the ids of all events of a session begin with. */
export function startEventId (sessionId: string): string {
  return `${sessionId}.`
}

/** What the id of an event ends with, in whichever session. */
export function endEventId (position: number): string {
  return position.toString(36)
}

/** Reads an event's id back; `undefined` where the text is not one of ours. */
export function parseEventId (text: string): EventId | undefined {
  const [, sessionId, digits] = PATTERN.exec(text) ?? []
  if (sessionId === undefined || digits === undefined) return undefined
  const position = Number.parseInt(digits, 36)
  return Number.isSafeInteger(position) ? { sessionId, position } : undefined
}
