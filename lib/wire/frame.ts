import { encode } from 'eventsource-encoder'
import { DataInvalid, EventInvalid, quote } from '../errors.js'
import { CLOSED_ID, encodePosition, formatEventId, idPrefix } from './event-id.js'

/** The event with a value of a handler, or of a run that a session follows. A message with this name stops the values of a handler. */
export const PART_EVENT = 'part'
/** The event with a request to the client. Its answer is a message named {@link RESPONSE_EVENT}. */
export const REQUEST_EVENT = 'request'
export const RESPONSE_EVENT = 'response'
// The names of the events of the plugin, of EventSource, and of the session of the package's client.
const RESERVED = new Set(['welcome', 'gap', 'close', 'replaced', PART_EVENT, REQUEST_EVENT, 'open', 'error', 'resume', 'disconnect', 'reset'])
// The name of the last event of a run.
const END_EVENT = 'end'
const FORBIDDEN_CHARACTERS = /[\r\n\0]/

/** Whether a value can be the name of an event: a non-empty string that clients receive unchanged. */
export function isEventName (name: unknown): name is string {
  return typeof name === 'string' && name !== '' && !FORBIDDEN_CHARACTERS.test(name) && name.isWellFormed()
}

/** Whether the app may send an event with this name. */
export function isUserEvent (name: unknown): boolean {
  return isEventName(name) && !RESERVED.has(name)
}

/** Throws FST_SSE_EVENT_INVALID if the app may not send an event with this name. */
export function assertUserEvent (name: unknown): void {
  if (!isUserEvent(name)) throw new EventInvalid(quote(name))
}

/** Formats an event of the app as SSE, without its id. The id is different for each session; everything else is formatted once for all of them. Throws FST_SSE_EVENT_INVALID or FST_SSE_DATA_INVALID. */
export function frameEvent (event: string, data: unknown): string {
  assertUserEvent(event)
  const json = serialize(data)
  // Without `encode`, which would spend most of its time on the search for line breaks. JSON contains none.
  return event === 'message' ? `data: ${json}\n\n` : `event: ${event}\ndata: ${json}\n\n`
}

/** Formats a request to the client, without its event id. Throws FST_SSE_EVENT_INVALID or FST_SSE_DATA_INVALID. */
export function frameRequest (id: string, event: string, data: unknown): string {
  assertUserEvent(event)
  return `event: ${REQUEST_EVENT}\ndata: {"request":"${id}","event":${JSON.stringify(event)},"data":${serialize(data)}}\n\n`
}

/** Formats an event that the client acknowledges with an answer. The field `request` belongs to this protocol, not to SSE; other clients ignore it. */
export function frameAcknowledgedEvent (id: string, event: string, data: unknown): string {
  return `request: ${id}\n${frameEvent(event, data)}`
}

/** Parses an event that {@link frameEvent} has formatted. */
export function parseFrame (frame: string): { event: string, data: unknown } {
  const { event = 'message', data } = splitFrame(frame)
  return { event, data: JSON.parse(data) }
}

/** Returns the name, if it has one, and the data of an event that was formatted without an id. */
export function splitFrame (frame: string): { event: string | undefined, data: string } {
  const dataLine = frame.startsWith('event: ') ? frame.indexOf('\n') + 1 : 0
  return {
    event: dataLine === 0 ? undefined : frame.slice('event: '.length, dataLine - 1),
    data: frame.slice(dataLine + 'data: '.length, -2).replaceAll('\ndata: ', '\n')
  }
}

/** The function with which an app encodes the data of the events of a run, instead of as JSON. */
export type EncodeData = (data: unknown) => string

/**
 * Formats an item of a run as SSE, without its id: `{ event, data }` is an event with a name, everything else is the data of
 * the default event. Throws FST_SSE_EVENT_INVALID or FST_SSE_DATA_INVALID.
 */
export function frameRunItem (item: unknown, encodeData?: EncodeData): string {
  const { event, data } = isNamedItem(item) ? item : { event: 'message', data: item }
  if (event === END_EVENT) throw new EventInvalid(quote(event))
  if (encodeData === undefined) return frameEvent(event, data)
  assertUserEvent(event)
  const text: unknown = encodeData(data)
  if (typeof text !== 'string') throw new DataInvalid(`"encode" must return a string; it returned a value of the type ${typeof text}`)
  return encode({ ...event !== 'message' && { event }, data: text })
}

/** Returns the start of each `part` event of a message or a run: everything before the properties of the part. */
export function framePartPrefix (kind: 'message' | 'run', name: string): string {
  return `event: ${PART_EVENT}\ndata: {"${kind}":${JSON.stringify(name)},`
}

/** Formats a part from its prefix and its other properties, which are JSON without the braces. */
export function framePart (partPrefix: string, properties: string): string {
  return `${partPrefix}${properties}}\n\n`
}

/** Formats the last part of a message or a run, which contains its outcome. */
export function framePartEnd (partPrefix: string, outcome: object): string {
  return framePart(partPrefix, `"end":${JSON.stringify(outcome)}`)
}

function isNamedItem (item: unknown): item is { event: string, data?: unknown } {
  return typeof item === 'object' && item !== null && 'event' in item && typeof item.event === 'string' && Object.keys(item).every(key => key === 'event' || key === 'data')
}

/** The event with which the response to a reader of a run ends by default. */
export function frameRunEnd (outcome: object): string {
  return encode({ event: END_EVENT, data: JSON.stringify(outcome) })
}

/** Formats a block with an id and no data. A client stores the id and reports no event. */
export function frameId (id: string): string {
  return `id: ${id}\n\n`
}

/** Adds an id to the last event of a text that the app has formatted as SSE. Throws FST_SSE_DATA_INVALID if the text does not have the form of SSE. `source` names the function that returned it. */
export function addId (frames: unknown, id: string, source: string): string {
  if (frames === '') return frameId(id)
  if (typeof frames !== 'string' || !frames.endsWith('\n\n')) throw new DataInvalid(`"${source}" must return events in the format of SSE, each followed by a blank line, or an empty string`)
  // The id is not added to an earlier event, because a client that reconnects with it receives only what follows the last event.
  const previousEnd = frames.slice(0, -2).lastIndexOf('\n\n')
  const last = previousEnd === -1 ? 0 : previousEnd + 2
  return `${frames.slice(0, last)}id: ${id}\n${frames.slice(last)}`
}

/** Serializes data as JSON; `undefined` becomes `null`. Throws FST_SSE_DATA_INVALID if the data cannot be serialized. */
export function serialize (data: unknown = null): string {
  let json: string | undefined
  try {
    json = JSON.stringify(data)
  } catch (error) {
    throw new DataInvalid(`it cannot be serialized as JSON: ${error instanceof Error ? error.message : String(error)}`)
  }
  if (json === undefined) throw new DataInvalid(`it cannot be serialized as JSON: it is a ${typeof data}`)
  return json
}

/** Returns the first characters of every event of a session or run. */
export function framePrefix (id: string): string {
  return `id: ${idPrefix(id)}`
}

/** Returns the rest of an event after {@link framePrefix}. It is the same for every session. */
export function frameSuffix (position: number, frame: string): string {
  return `${encodePosition(position)}\n${frame}`
}

export function frameWelcome (sessionId: string, position: number, retry: number, json: string): string {
  return `retry: ${retry}\nevent: welcome\nid: ${formatEventId(sessionId, position)}\ndata: ${json}\n\n`
}

/** A range of positions whose events the client may have missed. */
export interface Gap {
  /** The last position before the range. With the reason `store`, it can be before events that the client has received. */
  readonly after: number
  /** The last position of the range. After it, the stream is complete again. */
  readonly resumedAt: number
  /** Why the log lost events: because of one of its bounds, or `store` if the store was restored to an earlier state. */
  readonly reason: 'count' | 'bytes' | 'age' | 'store'
}

export function frameGap (id: string, position: number, gap: Gap): string {
  return encode({ event: 'gap', id: formatEventId(id, position), data: JSON.stringify(gap) })
}

export function frameClose (reason: string): string {
  return encode({ event: 'close', id: CLOSED_ID, data: JSON.stringify({ reason }) })
}

/**
 * The last event of a stream that was replaced by another. The session stays open, but the response to a client that
 * reconnects with this id is 204, so that it stops. Otherwise, two clients would replace each other's streams forever.
 */
export const REPLACED_FRAME = encode({ event: 'replaced', id: CLOSED_ID, data: '{}' })

/** Formats the field that sets the number of milliseconds that a client waits before it reconnects. */
export function frameRetry (retry: number): string {
  return `retry: ${retry}\n\n`
}

/** A comment and a blank line, because simple readers wait for a blank line and would never finish a block without one. */
export const HEARTBEAT_FRAME = ': heartbeat\n\n'

/** A comment of 4 KiB. A proxy that collects this much before it forwards anything then forwards what precedes the comment. */
export const PADDING_FRAME = `: ${' '.repeat(4092)}\n\n`

export function frameHeartbeatEvent (event: string): string {
  return encode({ event, data: '{}' })
}
