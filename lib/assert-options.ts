import { quote } from './errors.js'

const MAX_KEEP = 2 ** 31 - 1

type OptionError = new (message: string) => Error

/** Throws an error if a value is not an object that has only the given properties. `owner` says whose options they are. */
export function assertOptions (options: unknown, names: readonly string[], owner: string, Invalid: OptionError): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) throw new Invalid(`The options of ${owner} must be an object with no other properties than ${names.join(', ')}; they are ${quote(options)}`)
  const unknown = Object.keys(options).find(name => !names.includes(name))
  if (unknown !== undefined) throw new Invalid(`Option "${unknown}" of ${owner} must be removed: there is no such option; the options are ${names.join(', ')}`)
}

/** Throws an error if a value is not valid for the option `keep`. */
export function assertKeep (keep: unknown, owner: string, Invalid: OptionError): void {
  if (!(Number.isInteger(keep) && Number(keep) >= 0 && Number(keep) <= MAX_KEEP)) throw new Invalid(`Option "keep" of ${owner} must be a whole number of milliseconds from 0 to ${MAX_KEEP}; it is ${String(keep)}`)
}
