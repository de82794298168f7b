import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import { until, within } from './wait.js'

export interface Child {
  readonly process: ChildProcessWithoutNullStreams
  /** Everything it has printed, on both outputs. */
  readonly output: () => string
  /** Resolves when it has printed a match. */
  printed: (pattern: RegExp, ms?: number) => Promise<RegExpExecArray>
  /** Ends it with a signal, and waits until it has ended. */
  kill: (signal?: NodeJS.Signals) => Promise<void>
}

/** Runs a script of the repository with this Node; it is killed when the test ends. */
export function runScript (t: Test, path: string, env: Record<string, string> = {}, flags: string[] = []): Child {
  return watch(t, spawn(process.execPath, [...flags, path], {
    cwd: new URL('../..', import.meta.url),
    detached: true,
    // Not the test runner's own loaders and coverage.
    env: { PATH: process.env.PATH, ...env }
  }), path)
}

/** Gathers what a process prints. It, and what it has started (spawn it detached), is killed when the test ends. */
export function watch (t: Test, child: ChildProcessWithoutNullStreams, name: string): Child {
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => { output += text })
  const ended = once(child, 'exit')
  const kill = async (signal: NodeJS.Signals = 'SIGKILL'): Promise<void> => {
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) process.kill(-child.pid, signal)
    await within(ended, `the end of ${name}`)
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
