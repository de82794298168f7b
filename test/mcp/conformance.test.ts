import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import t from 'tap'
import { createTestFolder } from '../support/test-folder.js'
import { createConformanceHandler } from './support/conformance-handler.js'
import { createConformanceServer } from './support/conformance-server.js'
import { serveMcp } from './support/server.js'

const [major = 0] = process.versions.node.split('.').map(Number)
const skip = major < 22 && 'the conformance suite needs Node 22'
// The test may run in another folder, with the packed package.
const command = createRequire(import.meta.url).resolve('@modelcontextprotocol/conformance/dist/index.js')

/** Scenarios that need tools of the SDK for extensions, for requests to the client, and for its validation. */
const OTHERS = /^server-(?:input-required|tasks|json-schema|http-custom-header)/

const REVISIONS = [
  { version: '2025-11-25', args: ['--suite', 'all', '--spec-version', '2025-11-25'], count: 83 },
  { version: '2025-06-18', args: ['--suite', 'all', '--spec-version', '2025-06-18'], count: 56 },
  { version: '2026-07-28', args: ['--requirements', '2026-07-28'], count: 95 }
]

for (const { version, args, count } of REVISIONS) {
  t.test(`passes the official conformance suite for revision ${version}`, { skip, timeout: 120_000 }, async t => {
    const isStateless = version === '2026-07-28'
    const { url } = await serveMcp(t, { server: createConformanceServer, ...isStateless && { handler: createConformanceHandler() } })
    const folder = createTestFolder(t)
    const suite = spawn(process.execPath, [command, 'server', '--url', url, ...args, '--output-dir', folder], { stdio: ['ignore', 'pipe', 'inherit'] })
    let output = ''
    suite.stdout.on('data', (chunk: Buffer) => { output += chunk.toString() })
    const code = await new Promise<number | null>(resolve => { suite.on('close', resolve) })
    if (!isStateless) t.equal(code, 0, output)
    // The suite also exits with 0 if there are warnings.
    const checks = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('checks.json') && !OTHERS.test(isStateless ? name : ''))
      .flatMap(name => JSON.parse(readFileSync(`${folder}/${name}`, 'utf8')) as Array<{ id: string, status: string }>)
    t.strictSame(checks.filter(({ status }) => !['SUCCESS', 'INFO', 'SKIPPED'].includes(status)), [])
    t.ok(checks.filter(({ status }) => status === 'SUCCESS').length >= count, `${checks.length} checks`)
  })
}
