import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import { within } from './wait.js'

/** Runs the source of a module in a separate process, in the root folder of the repository. Resolves when the process has exited. */
export async function evaluate (t: Test, source: string, flags: string[] = [], ms = 30_000): Promise<{ code: number | null, output: string }> {
  const child = spawn(process.execPath, [...process.execArgv, ...flags, '--input-type=module', '--eval', source], {
    cwd: new URL('../..', import.meta.url)
  })
  t.teardown(() => { child.kill('SIGKILL') })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => { output += text })
  const [code] = await within(once(child, 'close') as Promise<[number | null]>, 'the process to exit', ms).catch(error => { throw new Error(`${String(error)}; it printed: ${output}`) })
  return { code, output }
}
