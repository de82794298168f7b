import type { Test } from 'tap'

/** Collects the warnings that Node emits in this process while a test runs. */
export function warnings (t: Test): Error[] {
  const collected: Error[] = []
  const collect = (warning: Error): void => { collected.push(warning) }
  process.on('warning', collect)
  t.teardown(() => process.off('warning', collect))
  return collected
}
