import { assertOptions } from '../assert-options.js'
import { OptionInvalid, quote } from '../errors.js'
import type { EntryInput } from '../log/log.js'
import { frameEvent } from '../wire/frame.js'

/** Options of the methods that send an event. */
export interface LatestOptions {
  /**
   * Whether only the latest event matters, for example a position. The event then replaces the earlier one that was sent with the same
   * key to the same session or channel, or with `broadcast`: a client that is slow or reconnects does not receive the earlier event, and
   * gets no `gap` event for it. A session that has left the channel, or is closed, may then receive neither event. `true` means that the
   * name of the event is the key; a string of at most 256 bytes is the key itself. Default: `false`, every event is delivered.
   */
  readonly latest?: boolean | string | undefined
}

/** Options of the methods that send an event to several sessions. */
export interface SendOptions extends LatestOptions {
  /** The sessions that do not receive the event, usually only that of the sender. Default: none. */
  readonly except?: { readonly id: string } | ReadonlyArray<{ readonly id: string }> | undefined
}

const MAX_KEY_BYTES = 256

/** Creates an entry for the log of a session. Throws FST_SSE_EVENT_INVALID, FST_SSE_DATA_INVALID, or FST_SSE_OPTION_INVALID if the options of `call` are invalid. */
export function createEntry (event: string, data: unknown, options: LatestOptions | undefined, call: string): EntryInput {
  const frame = frameEvent(event, data)
  if (options === undefined) return { frame }
  assertOptions(options, ['latest'], call, OptionInvalid)
  return { frame, key: resolveKey(event, options) }
}

/** As {@link createEntry}, for the log of a channel or of broadcasts. */
export function createSharedEntry (event: string, data: unknown, options: SendOptions | undefined, call: string): EntryInput {
  const frame = frameEvent(event, data)
  if (options === undefined) return { frame }
  const except = getExcludedIds(options, call)
  const key = resolveKey(event, options)
  // The key contains the excluded ids. Otherwise, this event would replace an earlier one that the excluded sessions have not received yet.
  return { frame, except, key: key === undefined || except === undefined ? key : `${except.sort().join()}\n${key}` }
}

/** Returns the key of an event of which only the latest matters. */
function resolveKey (event: string, { latest = false }: LatestOptions): string | undefined {
  if (latest === false) return undefined
  const key = latest === true ? event : latest
  const isValid = typeof key === 'string' && key !== '' && key.isWellFormed() && Buffer.byteLength(key) <= MAX_KEY_BYTES
  if (!isValid) throw new OptionInvalid(`Option "latest" must be true, false, or a well-formed string of 1 to ${MAX_KEY_BYTES} bytes; it is ${quote(key)}`)
  return key
}

function getExcludedIds (options: SendOptions, call: string): string[] | undefined {
  assertOptions(options, ['except', 'latest'], call, OptionInvalid)
  const { except } = options
  const sessions = except === undefined ? [] : [except].flat() as ReadonlyArray<{ readonly id: string }>
  // An `id` shows that a session was passed in place of the options. Without this check, the session would have no effect.
  const isValid = sessions.every(session => typeof session?.id === 'string') && !('id' in options)
  if (!isValid) throw new OptionInvalid('Option "except" must be a session, an array of sessions, or objects with their ids: { except: session }')
  return sessions.length === 0 ? undefined : sessions.map(({ id }) => id)
}
