import { readFileSync } from 'node:fs'

/**
 * Returns the text of a Lua file, by its path from this folder without the extension. The build replaces this module with one
 * that contains the texts, because bundlers do not include files that are read at run time.
 */
export function readLua (path: string): string {
  return readFileSync(new URL(`${path}.lua`, import.meta.url), 'utf8')
}
