import type { Test } from 'tap'

const isPlainObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype

/** The parts of `found` that `pattern` contains. A part that matches a regular expression or a class is replaced by it. */
function select (found: unknown, pattern: unknown): unknown {
  if (pattern instanceof RegExp) return typeof found === 'string' && pattern.test(found) ? pattern : found
  if (typeof pattern === 'function') return found instanceof pattern ? pattern : found
  if (Array.isArray(pattern) && Array.isArray(found)) return found.map((element, i) => i < pattern.length ? select(element, pattern[i]) : element)
  if (isPlainObject(pattern) && typeof found === 'object' && found !== null) return Object.fromEntries(Object.entries(pattern).map(([key, value]) => [key, select(Reflect.get(found, key), value)]))
  return found
}

/** Asserts that a list has the elements of a pattern and no others; `t.match` ignores additional elements. Objects may have more properties than the pattern, but strings are equal. */
export function matchList (t: Test, found: unknown, pattern: unknown, message = 'the list has these elements'): void {
  t.strictSame(select(found, pattern), pattern, message)
}
