import { assertOptions } from '../assert-options.js'
import { quote, RunInvalid } from '../errors.js'

/** Throws FST_SSE_RUN_INVALID if a value is not an object that has only the given properties. */
export function assertRunOptions (options: unknown, names: readonly string[]): void {
  assertOptions(options, names, 'a run', RunInvalid)
}

/** Throws FST_SSE_RUN_INVALID if one of the options is set, but is not a function. */
export function assertFunctions (options: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined && typeof value !== 'function') throw new RunInvalid(`Option "${name}" of a run must be a function; it is ${quote(value)}`)
  }
}
