/** Copies an object, and the arrays in it. Plugins add hooks to the arrays in the options of a route, so routes must not share them. */
export function copyArrays<T extends object> (options: T): T {
  return Object.fromEntries(Object.entries(options).map(([name, value]) => [name, Array.isArray(value) ? [...value] as unknown[] : value])) as T
}
