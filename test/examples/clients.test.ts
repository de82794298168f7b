import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { createServer, type AddressInfo, type Server } from 'node:net'
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
  /** A shell command that starts the client with an app that opens a missing file, whose name is the URL, when it receives an event. */
  readonly failing?: string
}

const folder = mkdtempSync(join(tmpdir(), 'clients-'))
t.teardown(() => { rmSync(folder, { recursive: true }) })

const CLIENTS: Record<string, Client> = {
  'Python with the standard library': {
    command: '/usr/bin/python3 clients/python/client.py $URL',
    probe: '/usr/bin/python3 --version',
    failing: 'cd clients/python && /usr/bin/python3 -Bc "import client, sys; client.Session(sys.argv[1], lambda name, data: open(sys.argv[1])).run()" $URL'
  },
  'Python with httpx': {
    command: '/usr/bin/python3 clients/python-httpx/client.py $URL',
    probe: "/usr/bin/python3 -c 'import httpx'",
    failing: 'cd clients/python-httpx && /usr/bin/python3 -Bc "import asyncio, client, sys; asyncio.run(client.Session(sys.argv[1], lambda name, data: open(sys.argv[1])).run())" $URL'
  },
  'Ruby with net/http': {
    command: 'ruby clients/ruby/client.rb $URL',
    probe: 'ruby --version',
    failing: 'ruby -r ./clients/ruby/client.rb -e "Session.new(ARGV[0]) { File.read(ARGV[0]) }.run" $URL'
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

/** Creates a server whose TLS handshakes fail. */
const createNotTls = (): Server => createServer(socket => {
  // A reset would be a network error.
  socket.on('error', () => {}).once('data', () => { socket.end('This is not TLS\n') })
})

/** Creates a server whose streams contain one event, and stay open. */
const createOneEvent = (): Server => createHttpServer((_request, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.write('retry: 1\n\nevent: welcome\ndata: {"sessionId":"s","resumed":false}\n\nid: s.1\ndata: 1\n\n')
})

/** Starts a client. Resolves with the number of its connections when it has connected twice, or has exited. */
async function countConnections (t: Test, scheme: string, server: Server, command: string): Promise<number> {
  let connections = 0
  server.on('connection', () => { connections++ }).listen(0, '127.0.0.1')
  t.teardown(() => { server.close() })
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const client = spawn(command, { shell: true, detached: true, env: { ...process.env, URL: `${scheme}://127.0.0.1:${port}/sessions` }, stdio: 'ignore' })
  let hasExited = false
  const exit = once(client, 'exit').then(() => { hasExited = true })
  await waitUntil(() => connections >= 2 || hasExited, 'another connection', 60_000)
  if (client.pid !== undefined && !hasExited) process.kill(-client.pid, 'SIGKILL')
  await exit
  return connections
}

// The clients wait most of the time.
t.jobs = 4

for (const [name, { command, probe, compile, failing }] of Object.entries(CLIENTS)) {
  t.test(`a client meets all requirements of the protocol: ${name}`, { ...needsProgram(name, probe), buffered: true }, async t => {
    // Not synchronously: the other tests' clients would see a silent server meanwhile, and reconnect.
    if (compile !== undefined) await run(compile)
    t.ok(await countConnections(t, 'https', createNotTls(), command) >= 2, 'it reconnects after a failed TLS handshake')
    if (failing !== undefined) t.equal(await countConnections(t, 'http', createOneEvent(), failing), 1, 'it does not take an error of the app for a lost connection')
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
