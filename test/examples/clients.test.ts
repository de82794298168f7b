import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { checkClient } from '../conformance/check-client.js'
import { needsProgram } from '../support/needs-program.js'

interface Client {
  /** A shell command that starts the client. */
  readonly command: string
  /** A shell command that fails if the client cannot run. */
  readonly probe: string
  /** A shell command that compiles the client. */
  readonly compile?: string
}

const folder = mkdtempSync(join(tmpdir(), 'clients-'))
t.teardown(() => { rmSync(folder, { recursive: true }) })

const CLIENTS: Record<string, Client> = {
  'Python with the standard library': {
    command: '/usr/bin/python3 clients/python/client.py $URL',
    probe: '/usr/bin/python3 --version'
  },
  'Python with httpx': {
    command: '/usr/bin/python3 clients/python-httpx/client.py $URL',
    probe: "/usr/bin/python3 -c 'import httpx'"
  },
  'Ruby with net/http': {
    command: 'ruby clients/ruby/client.rb $URL',
    probe: 'ruby --version'
  },
  'PHP with curl': {
    command: 'php clients/php/client.php $URL',
    probe: "php -r 'curl_multi_init();'"
  },
  'Go with net/http': {
    command: `${folder}/go-client $URL`,
    probe: 'go version',
    compile: `go build -o ${folder}/go-client clients/go/client.go`
  },
  'Java with java.net.http': {
    // The client is too short-lived for the second compiler of the JVM.
    command: `java -XX:TieredStopAtLevel=1 -cp ${folder} Client $URL`,
    probe: 'javac --version',
    compile: `javac -d ${folder} clients/java/Client.java`
  },
  'POSIX shell with curl': {
    command: 'sh clients/shell/client.sh $URL',
    probe: 'curl --version'
  }
}

// The clients wait most of the time.
t.jobs = 4

for (const [name, { command, probe, compile }] of Object.entries(CLIENTS)) {
  t.test(`a client meets all requirements of the protocol: ${name}`, { ...needsProgram(name, probe), buffered: true }, async t => {
    // Not synchronously: the other tests' clients would see a silent server meanwhile, and reconnect.
    if (compile !== undefined) await promisify(execFile)('sh', ['-c', compile])
    let output = ''
    const report = await checkClient(t, { command, seed: 1, log: text => { output += text } })
    t.ok(report.passed, `${report.toString()}\n${output}`)
  })
}
