import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import { until, within } from './wait.js'

export interface Child {
  readonly process: ChildProcessWithoutNullStreams
  /** Everything that the process has printed to stdout and stderr. */
  readonly output: () => string
  /** Resolves with the match when the output matches. */
  printed: (pattern: RegExp, ms?: number) => Promise<RegExpExecArray>
  /** Sends a signal (default: SIGKILL) to the process and its children, and waits until the process has exited. */
  kill: (signal?: NodeJS.Signals) => Promise<void>
}

/** Runs a script of the repository with the same version of Node. It is killed when the test ends. */
export function runScript (t: Test, path: string, env: Record<string, string> = {}, flags: string[] = []): Child {
  return watch(t, spawn(process.execPath, [...flags, path], {
    cwd: new URL('../..', import.meta.url),
    detached: true,
    // Without the loaders and the coverage of the test runner.
    env: { PATH: process.env.PATH, ...env }
  }), path)
}

/** Collects the output of a process. The process and its children are killed when the test ends; the process must be detached. */
export function watch (t: Test, child: ChildProcessWithoutNullStreams, name: string): Child {
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => { output += text })
  const exited = once(child, 'exit')
  const kill = async (signal: NodeJS.Signals = 'SIGKILL'): Promise<void> => {
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) process.kill(-child.pid, signal)
    await within(exited, `the exit of ${name}`)
  }
  t.teardown(() => kill())
  return {
    process: child,
    output: () => output,
    printed: async (pattern, ms) => {
      let match: RegExpExecArray | null = null
      await until(() => {
        match = pattern.exec(output)
        return match !== null
      }, `${String(pattern)} from ${name}; it printed: ${output}`, ms)
      return match as unknown as RegExpExecArray
    },
    kill
  }
}
