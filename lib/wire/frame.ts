import { encode } from 'eventsource-encoder'
import { DataInvalid, EventInvalid } from '../errors.js'
import { CLOSED_ID, endEventId, formatEventId, startEventId } from './event-id.js'

// The plugin's own, those that an EventSource raises itself, and those of the client's sessions.
const RESERVED = new Set(['welcome', 'gap', 'close', 'replaced', 'open', 'error', 'resume', 'disconnect', 'reset'])
const BREAKS_THE_FRAME = /[\r\n\0]/

/** Whether a string can be an event's name on the wire and arrive as it was sent. */
export function isEventName (name: unknown): name is string {
  return typeof name === 'string' && name !== '' && !BREAKS_THE_FRAME.test(name) && name.isWellFormed()
}

/** Whether the app may send an event of a name. */
export function isSendable (name: unknown): boolean {
  return isEventName(name) && !RESERVED.has(name)
}

/** Frames an event of the app's, all but its id: that differs from session to session, the rest is framed once for all. */
export function frameEvent (event: string, data: unknown): string {
  if (!isSendable(event)) throw new EventInvalid(typeof event === 'string' ? JSON.stringify(event) : typeof event)
  const json = serialize(data)
  // By hand: `encode` would look for line ends, which JSON has none of, and take longer for that than for the rest.
  return event === 'message' ? `data: ${json}\n\n` : `event: ${event}\ndata: ${json}\n\n`
}

/** Data as JSON, which `undefined` is sent as `null` for the want of. Throws FST_SSE_DATA_INVALID where it has none. */
export function serialize (data: unknown = null): string {
  let json: string | undefined
  try {
    json = JSON.stringify(data)
  } catch (error) {
    throw new DataInvalid(error instanceof Error ? error.message : String(error))
  }
  if (json === undefined) throw new DataInvalid(`it is a ${typeof data}`)
  return json
}

/** How every event of a session begins. */
export function frameStart (sessionId: string): string {
  return `id: ${startEventId(sessionId)}`
}

/** How an event goes on at a position, in whichever session. */
export function frameRest (position: number, frame: string): string {
  return `${endEventId(position)}\n${frame}`
}

export function frameWelcome (sessionId: string, position: number, retry: number, json: string): string {
  return `retry: ${retry}\nevent: welcome\nid: ${formatEventId(sessionId, position)}\ndata: ${json}\n\n`
}

/** What was lost: entries after `after`, up to and including `resumedAt`; from there on the stream is whole again. */
export interface Gap {
  readonly after: number
  readonly resumedAt: number
  readonly reason: 'count' | 'bytes' | 'age' | 'store'
}

export function frameGap (sessionId: string, position: number, gap: Gap): string {
  return encode({ event: 'gap', id: formatEventId(sessionId, position), data: JSON.stringify(gap) })
}

export function frameClose (reason: string): string {
  return encode({ event: 'close', id: CLOSED_ID, data: JSON.stringify({ reason }) })
}

/**
 * Ends a stream that another has replaced. The session goes on, but the id makes a client that still listens stop when
 * it comes back, where otherwise the two would replace each other for ever.
 */
export const REPLACED_FRAME = encode({ event: 'replaced', id: CLOSED_ID, data: '{}' })

/** Tells a client how many milliseconds to wait before it connects again. */
export function frameRetry (retry: number): string {
  return `retry: ${retry}\n\n`
}

/** A comment and ONE line feed: some clients surface a blank line as an empty event. */
export const HEARTBEAT_FRAME = ': heartbeat\n'

export function frameHeartbeatEvent (event: string): string {
  return encode({ event, data: '{}' })
}
