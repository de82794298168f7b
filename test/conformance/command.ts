// Tests a client or a server for the requirements of the protocol. docs/conformance.md explains how.
//   npm run conformance -- <command that starts a client>
//   npm run conformance -- --server <URL>
import { parseArgs } from 'node:util'
import type { Test } from 'tap'
import { checkClient } from './check-client.js'
import { checkServer } from './check-server.js'

const { values: { server, seed, verbose }, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    /** The base URL of a server to test, instead of a client. */
    server: { type: 'string' },
    /** The seed of the random faults. */
    seed: { type: 'string', default: '1' },
    /** Whether to print what the client prints. */
    verbose: { type: 'boolean', default: false }
  }
})
const command = positionals.join(' ')
if ((server === undefined) === (command === '') || !Number.isSafeInteger(Number(seed))) {
  console.error('Usage: npm run conformance -- [--seed <whole number>] <command that starts a client>\n       npm run conformance -- --server <URL>')
  process.exit(2)
}

// Servers, proxies and connections end with the process.
const t = { teardown: () => {} } as unknown as Test
const log = verbose ? (text: string) => { process.stderr.write(text) } : () => {}
const report = server === undefined ? await checkClient(t, { command, seed: Number(seed), log }) : await checkServer(t, server.replace(/\/$/, ''))
console.log(String(report))
process.exit(report.passed ? 0 : 1)
