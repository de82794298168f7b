import { quote, RunInvalid } from '../errors.js'

const MAX_KEEP = 2 ** 31 - 1

type OptionError = new (message: string) => Error

/** Throws an error if a value is not an object that has only the given properties. `owner` says whose options they are. */
export function assertOptions (options: unknown, names: readonly string[], owner = 'a run', Invalid: OptionError = RunInvalid): void {
  if (typeof options !== 'object' || options === null) throw new Invalid(`The options of ${owner} must be an object with no other properties than ${names.join(', ')}; they are ${quote(options)}`)
  const unknown = Object.keys(options).find(name => !names.includes(name))
  if (unknown !== undefined) throw new Invalid(`Option "${unknown}" of ${owner} must be removed: there is no such option; the options are ${names.join(', ')}`)
}

/** Throws FST_SSE_RUN_INVALID if one of the options is set, but is not a function. */
export function assertFunctions (options: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined && typeof value !== 'function') throw new RunInvalid(`Option "${name}" of a run must be a function; it is ${quote(value)}`)
  }
}

/** Throws an error if a value is not valid for the option `keep`. */
export function assertKeep (keep: unknown, owner = 'a run', Invalid: OptionError = RunInvalid): void {
  if (!(Number.isInteger(keep) && Number(keep) >= 0 && Number(keep) <= MAX_KEEP)) throw new Invalid(`Option "keep" of ${owner} must be a whole number of milliseconds from 0 to ${MAX_KEEP}; it is ${String(keep)}`)
}
