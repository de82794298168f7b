import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import t from 'tap'
import { createTestFolder } from '../support/test-folder.js'
import { createConformanceServer } from './support/conformance-server.js'
import { serveMcp } from './support/server.js'

const [major = 0] = process.versions.node.split('.').map(Number)
const skip = major < 22 && 'the conformance suite needs Node 22'
// The test may run in another folder, with the packed package.
const command = createRequire(import.meta.url).resolve('@modelcontextprotocol/conformance/dist/index.js')

for (const [version, count] of [['2025-11-25', 83], ['2025-06-18', 56]] as const) {
  t.test(`passes the official conformance suite for revision ${version}`, { skip, timeout: 120_000 }, async t => {
    const { url } = await serveMcp(t, { server: createConformanceServer })
    const folder = createTestFolder(t)
    const suite = spawn(process.execPath, [command, 'server', '--url', url, '--suite', 'all', '--spec-version', version, '--output-dir', folder], { stdio: ['ignore', 'pipe', 'inherit'] })
    let output = ''
    suite.stdout.on('data', (chunk: Buffer) => { output += chunk.toString() })
    const code = await new Promise<number | null>(resolve => { suite.on('close', resolve) })
    t.equal(code, 0, output)
    // The suite also exits with 0 if there are warnings.
    const checks = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('checks.json'))
      .flatMap(name => JSON.parse(readFileSync(`${folder}/${name}`, 'utf8')) as Array<{ id: string, status: string }>)
    t.strictSame(checks.filter(({ status }) => status !== 'SUCCESS' && status !== 'INFO'), [])
    t.ok(checks.filter(({ status }) => status === 'SUCCESS').length >= count, `${checks.length} checks`)
  })
}
