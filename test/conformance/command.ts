// Tests a client or a server for the requirements of the protocol. docs/conformance.md explains how.
//   npm run conformance -- <command that starts a client>
//   npm run conformance -- --server <URL>
import { parseArgs } from 'node:util'
import type { Test } from 'tap'
import { checkClient } from './check-client.js'

const { values: { seed, verbose }, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    /** The seed of the random faults. */
    seed: { type: 'string', default: '1' },
    /** Whether to print what the client prints. */
    verbose: { type: 'boolean', default: false }
  }
})

// The proxy closes with each run.
const t = { teardown: () => {} } as unknown as Test
const log = verbose ? (text: string) => { process.stderr.write(text) } : undefined
const report = await checkClient(t, { command: positionals.join(' '), seed: Number(seed), ...(log !== undefined && { log }) })
console.log(String(report))
process.exit(report.passed ? 0 : 1)
