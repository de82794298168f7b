import type { Test } from 'tap'

/** What Node warns of in this process while a test runs. */
export function warnings (t: Test): Error[] {
  const warned: Error[] = []
  const warn = (warning: Error): void => { warned.push(warning) }
  process.on('warning', warn)
  t.teardown(() => process.off('warning', warn))
  return warned
}
