import { execFileSync } from 'node:child_process'

/** Options of a test that needs a program of the system's: skips it, in one line that says so, where it is not installed; in CI it fails then. */
export function needsProgram (name: string): { skip?: string } {
  if (process.env.CI === 'true') return {}
  try {
    execFileSync('sh', ['-c', `command -v ${name}`])
    return {}
  } catch {
    return { skip: `${name} is not installed` }
  }
}
