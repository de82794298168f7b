import { readFileSync } from 'node:fs'
import t from 'tap'
import { checkClient } from '../conformance/check-client.js'
import { needsProgram } from '../support/needs-program.js'

interface Client {
  readonly source: string
  readonly command: string
  /** A shell command that fails if the client cannot run. */
  readonly probe: string
}

const CLIENTS: Record<string, Client> = {
  'Python with the standard library': {
    source: 'clients/python/client.py',
    command: '/usr/bin/python3 clients/python/client.py $URL',
    probe: '/usr/bin/python3 --version'
  }
}

// The clients wait most of the time.
t.jobs = 4

for (const [name, { source, command, probe }] of Object.entries(CLIENTS)) {
  t.test(`a client meets all requirements of the protocol: ${name}`, { ...needsProgram(name, probe), buffered: true }, async t => {
    let output = ''
    const report = await checkClient(t, { command, seed: 1, log: text => { output += text } })
    t.ok(report.passed, `${report.toString()}\n${output}`)
    const lines = readFileSync(source, 'utf8').split('\n').filter(line => line.trim() !== '')
    t.ok(lines.length <= 130, `${source} has ${lines.length} lines`)
  })
}
