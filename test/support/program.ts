import { execFileSync } from 'node:child_process'

/** Options of a test that needs an installed program. Without it the test is skipped, or fails in CI. */
export function needsProgram (name: string): { skip?: string } {
  if (process.env.CI === 'true') return {}
  try {
    execFileSync('sh', ['-c', `command -v ${name}`])
    return {}
  } catch {
    return { skip: `${name} is not installed` }
  }
}
