import { assertKeep, assertOptions } from '../assert-options.js'
import { ChannelInvalid, OptionInvalid, quote } from '../errors.js'

/** Options of `channel`. */
export interface ChannelOptions {
  /**
   * Milliseconds for which the channel keeps each event that is sent to it, also while it has no members, so that sessions that
   * join later can read it as history. The bounds of the option `channelLog` apply as well, but of its `age` and this `keep` only
   * the longer one counts. `keep` takes effect with the next event, in all processes, and applies to all events of the channel.
   * Default: 0, which changes nothing: if the channel is kept already, it is still kept.
   */
  readonly keep?: number
}

/** Options of `session.join`. */
export interface JoinOptions {
  /** Maximum number of events to return that were sent to the channel before. `Infinity` returns all that its log contains. */
  readonly history: number
}

/** Returns the number of milliseconds for which a channel is kept. Throws FST_SSE_OPTION_INVALID. */
export function resolveKeep (options: ChannelOptions): number {
  assertOptions(options, ['keep'], 'a channel', OptionInvalid)
  const { keep = 0 } = options
  assertKeep(keep, 'a channel', OptionInvalid)
  return keep
}

/** Returns the maximum number of events that `join` returns. Throws FST_SSE_OPTION_INVALID. */
export function resolveHistory (options: JoinOptions): number {
  assertOptions(options, ['history'], 'join', OptionInvalid)
  const { history } = options
  if (!(Number.isInteger(history) || history === Infinity) || history < 0) throw new OptionInvalid(`Option "history" of join must be a whole number from 0, or Infinity; it is ${String(history)}`)
  return history
}

/** Throws FST_SSE_CHANNEL_INVALID if a value cannot be the name of a channel. */
export function assertChannel (name: unknown): void {
  if (typeof name !== 'string' || name === '' || !name.isWellFormed()) throw new ChannelInvalid(quote(name))
}
