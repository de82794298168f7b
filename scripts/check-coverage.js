// Fails unless the tests have run all statements, functions and lines of lib/. Of branches, V8 also reports some that do not exist,
// such as the place after a block that always returns, and some that depend on the time at which a reply arrives.
import { readFileSync } from 'node:fs'

const MINIMUM = { statements: 100, functions: 100, lines: 100, branches: 99.5 }
const { total } = JSON.parse(readFileSync(new URL('../.tap/report/coverage-summary.json', import.meta.url), 'utf8'))
for (const [kind, minimum] of Object.entries(MINIMUM)) {
  const { pct } = total[kind]
  if (pct >= minimum) continue
  console.error(`${pct} % of the ${kind} are covered; the minimum is ${minimum} %`)
  process.exitCode = 1
}
