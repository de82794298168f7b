import { execFileSync } from 'node:child_process'

/**
 * Options of a test that needs an installed program. Without it the test is skipped, or fails in CI. `probe` is a shell
 * command that fails if the program, or something that it needs, is not installed.
 */
export function needsProgram (name: string, probe = `command -v ${name}`): { skip?: string } {
  if (process.env.CI === 'true') return {}
  try {
    execFileSync('sh', ['-c', probe], { stdio: 'ignore' })
    return {}
  } catch {
    return { skip: `not installed: "${probe}" fails` }
  }
}
