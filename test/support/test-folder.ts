import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'

/** Creates a folder with files, given by their names. It is in the repository, so that imports of packages are resolved, and is removed when the test ends. */
export function createTestFolder (t: Test, files: Readonly<Record<string, string>> = {}): string {
  const parent = fileURLToPath(new URL('../../.tap/', import.meta.url))
  mkdirSync(parent, { recursive: true })
  const folder = mkdtempSync(join(parent, 'folder-'))
  t.teardown(() => { rmSync(folder, { recursive: true }) })
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text)
  return folder
}
