import { quote, RunInvalid } from '../errors.js'

const MAX_KEEP = 2 ** 31 - 1

/** Throws FST_SSE_RUN_INVALID if a value is not an object that has only the given properties. */
export function assertOptions (options: unknown, names: readonly string[]): void {
  if (typeof options !== 'object' || options === null) throw new RunInvalid(`The options of a run must be an object with the properties ${names.join(', ')}`)
  const unknown = Object.keys(options).find(name => !names.includes(name))
  if (unknown !== undefined) throw new RunInvalid(`Option "${unknown}" of a run must be removed: there is no such option`)
}

/** Throws FST_SSE_RUN_INVALID if one of the options is set, but is not a function. */
export function assertFunctions (options: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined && typeof value !== 'function') throw new RunInvalid(`Option "${name}" of a run must be a function; it is ${quote(value)}`)
  }
}

/** Throws FST_SSE_RUN_INVALID if a value is not valid for the option `keep`. */
export function assertKeep (keep: unknown): void {
  if (!(Number.isInteger(keep) && Number(keep) >= 0 && Number(keep) <= MAX_KEEP)) throw new RunInvalid(`Option "keep" of a run must be a whole number of milliseconds from 0 to ${MAX_KEEP}; it is ${String(keep)}`)
}
