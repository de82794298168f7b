import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { checkClient } from '../conformance/check-client.js'
import { needsProgram } from '../support/needs-program.js'
import { waitUntil } from '../support/wait.js'

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

const run = (command: string): Promise<unknown> => promisify(execFile)('sh', ['-c', command])

/** Starts a client, whose TLS handshakes fail. Resolves when it has connected twice, or has exited. */
async function countHandshakes (t: Test, command: string): Promise<number> {
  let connections = 0
  const server = createServer(socket => {
    connections++
    // A reset would be a network error.
    socket.on('error', () => {}).once('data', () => { socket.end('This is not TLS\n') })
  }).listen(0, '127.0.0.1')
  t.teardown(() => { server.close() })
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const client = spawn(command, { shell: true, detached: true, env: { ...process.env, URL: `https://127.0.0.1:${port}/sessions` }, stdio: 'ignore' })
  let hasExited = false
  const exit = once(client, 'exit').then(() => { hasExited = true })
  await waitUntil(() => connections >= 2 || hasExited, 'another connection', 60_000)
  if (client.pid !== undefined && !hasExited) process.kill(-client.pid, 'SIGKILL')
  await exit
  return connections
}

// The clients wait most of the time.
t.jobs = 4

for (const [name, { command, probe, compile }] of Object.entries(CLIENTS)) {
  t.test(`a client meets all requirements of the protocol: ${name}`, { ...needsProgram(name, probe), buffered: true }, async t => {
    // Not synchronously: the other tests' clients would see a silent server meanwhile, and reconnect.
    if (compile !== undefined) await run(compile)
    t.ok(await countHandshakes(t, command) >= 2, 'it reconnects after a failed TLS handshake')
    let output = ''
    const report = await checkClient(t, { command, seed: 1, log: text => { output += text } })
    t.ok(report.passed, `${report.toString()}\n${output}`)
  })
}

t.test('close() before the first welcome has no effect: Java', needsProgram('javac', 'javac --version'), async t => {
  const early = mkdtempSync(join(tmpdir(), 'clients-'))
  t.teardown(() => { rmSync(early, { recursive: true }) })
  writeFileSync(join(early, 'Early.java'), 'class Early { public static void main(String[] args) { new Client("http://127.0.0.1:9", (name, data) -> { }).close(); } }')
  await t.resolves(run(`javac -d ${early} clients/java/Client.java ${early}/Early.java && java -cp ${early} Early`))
})
