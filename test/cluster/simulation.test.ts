import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { needsRedis } from '../support/redis-server.js'
import { withTimeout } from '../support/wait.js'

const program = fileURLToPath(new URL('./simulation/command.ts', import.meta.url))
// CI runs more of them in a step of its own.
const HISTORIES = 50
const TIMEOUT = 900_000
t.setTimeout(TIMEOUT)

/** Runs the simulation with arguments, in other processes. */
async function simulate (t: Test, ...args: string[]): Promise<{ code: number | null, lines: string[] }> {
  // Without the environment of the test runner, which measures the coverage of each process.
  const child = spawn(process.execPath, ['--import', './test/support/strip-types.js', program, ...args], { cwd: new URL('../..', import.meta.url), env: { PATH: process.env.PATH } })
  t.teardown(() => { child.kill() })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => { output += text })
  const [code] = await withTimeout(once(child, 'close') as Promise<[number | null]>, 'the simulation', TIMEOUT)
  return { code, lines: output.trimEnd().split('\n') }
}

t.test('simulated histories with faults keep all guarantees', { ...needsRedis, timeout: TIMEOUT }, async t => {
  const { code, lines } = await simulate(t, '--histories', `${HISTORIES}`, '--seed', '1', '--workers', '2')
  for (const line of lines) t.comment(line)
  t.equal(code, 0, 'no history violates a guarantee')
})

t.test('the same seed gives the same history', needsRedis, async t => {
  const run = async (): Promise<string[]> => {
    const { lines } = await simulate(t, '--histories', '3', '--seed', '7', '--trace', '--random')
    return lines.filter(line => !line.includes('CPU time'))
  }
  const first = await run()
  t.ok(first.length > 100, `${first.length} lines`)
  t.strictSame(await run(), first)
})
