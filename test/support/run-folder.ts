import { readdirSync } from 'node:fs'
import t from 'tap'

/** Runs the test files in the folder of a module, one after the other in this process, whose start takes longer than most files. */
export async function runFolder (module: string, isIncluded = (_name: string, _index: number): boolean => true): Promise<void> {
  const names = readdirSync(new URL('.', module)).filter(name => name.endsWith('.test.ts')).filter(isIncluded)
  // The tests of the files run after this one. So loading a file does not delay the timers of tests.
  await t.test('loads the files', async () => {
    for (const name of names) await import(new URL(name, module).href)
  })
}
