import { randomFillSync } from 'node:crypto'

/** The id of the events `close` and `replaced`. If a client reconnects with it as `Last-Event-ID`, the response is 204, which stops an EventSource. */
export const CLOSED_ID = 'closed'

/** The parts of an event id: the id of the session or run, and a position in its logs. */
export interface EventId {
  readonly id: string
  readonly position: number
}

const ID_BYTES = 18
const IDS_PER_FILL = 128

// The id of a session or run: 18 bytes as base64url.
const ID_PATTERN = /^[\w-]{24}$/
// The id of a session or run and a position, which has at most 11 digits in base 36.
const EVENT_ID_PATTERN = /^([\w-]{24})\.([0-9a-z]{1,11})$/

/** Generates the ids of sessions, runs and requests: 18 random bytes as base64url. It requests the random bytes for many ids in one call, because a call costs much more than its bytes. */
export class IdGenerator {
  readonly #buffer = Buffer.alloc(ID_BYTES * IDS_PER_FILL)
  #offset = this.#buffer.length

  next (): string {
    const buffer = this.#buffer
    if (this.#offset === buffer.length) {
      randomFillSync(buffer)
      this.#offset = 0
    }
    const start = this.#offset
    this.#offset += ID_BYTES
    const id = buffer.toString('base64url', start, this.#offset)
    // The bytes of an id are a secret and must not stay in the buffer.
    buffer.fill(0, start, this.#offset)
    return id
  }
}

/** Whether a text has the form of the id of a session, a run or a request. */
export function isSessionId (text: string): boolean {
  return ID_PATTERN.test(text)
}

/** Formats an event id as `<id of the session or run>.<position in base 36>`: printable ASCII of less than 128 bytes, so that every browser returns it unchanged. */
export function formatEventId (id: string, position: number): string {
  return idPrefix(id) + encodePosition(position)
}

/** Returns the part of an event id that is the same for all events of a session or run. */
export function idPrefix (id: string): string {
  return `${id}.`
}

/** Returns the part of an event id that does not depend on the session or run. */
export function encodePosition (position: number): string {
  return position.toString(36)
}

/** Parses an event id. Returns `undefined` if the text has another form. */
export function parseEventId (text: string): EventId | undefined {
  const [, id, digits] = EVENT_ID_PATTERN.exec(text) ?? []
  if (id === undefined || digits === undefined) return undefined
  const position = Number.parseInt(digits, 36)
  return Number.isSafeInteger(position) ? { id, position } : undefined
}
