import { spawn } from 'node:child_process'
import { once } from 'node:events'
import t from 'tap'
import { trackProcess } from '../support/child-process.js'
import { needsProgram } from '../support/needs-program.js'
import { recordOpenedSessions, type OpenedSession } from '../support/raw-client.js'
import { serve } from '../support/server.js'
import { withTimeout } from '../support/wait.js'

// Debian installs Python packages for this interpreter.
const PYTHON = '/usr/bin/python3'

interface Reader {
  /** Program, and arguments before the URL. It prints the data of events, and exits with an error if the response is incomplete. */
  readonly command: readonly [program: string, ...args: string[]]
  /** A shell command that fails if the program cannot run. */
  readonly probe?: string
}

// They do not use this package, and no library for SSE.
const READERS: Record<string, Reader> = {
  curl: { command: ['curl', '--silent', '--no-buffer'] },
  'Python with requests': {
    probe: `${PYTHON} -c "import requests"`,
    command: [PYTHON, '-c', `
import sys, requests
with requests.get(sys.argv[1], stream=True) as response:
    for line in response.iter_lines():
        if line.startswith(b'data: '):
            print(line.decode(), flush=True)
`]
  },
  // `for line in response` ends without an error if the response is incomplete.
  'Python with urllib': {
    command: [PYTHON, '-c', `
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1]) as response:
    text = b''
    while chunk := response.read1():
        *lines, text = (text + chunk).split(b'\\n')
        for line in lines:
            if line.startswith(b'data: '):
                print(line.decode(), flush=True)
`]
  },
  // With retries, Ruby would open another session.
  Ruby: {
    command: ['ruby', '-r', 'net/http', '-e', `
$stdout.sync = true
text = +''
uri = URI(ARGV[0])
Net::HTTP.start(uri.host, uri.port, max_retries: 0) do |http|
  http.request_get(uri.path) do |response|
    response.read_body do |chunk|
      text << chunk
      while (line = text.slice!(/.*\\n/))
        puts line if line.start_with?('data: ')
      end
    end
  end
end
`, '--']
  },
  // From a chunked response, `fgets` returns nothing before 8 KiB have arrived. PHP reports no incomplete response.
  PHP: {
    command: ['php', '-r', `
$stream = fopen($argv[1], 'r');
for ($line = '', $closed = false; ($char = fgetc($stream)) !== false;) {
    $line .= $char;
    if ($char !== "\\n") continue;
    if (str_starts_with($line, 'data: ')) echo $line;
    if ($line === "event: close\\n") $closed = true;
    $line = '';
}
exit($closed ? 0 : 1);
`, '--']
  },
  'PHP with HTTP/1.0': {
    command: ['php', '-r', `
$stream = fopen($argv[1], 'r', false, stream_context_create(['http' => ['protocol_version' => '1.0']]));
for ($closed = false; ($line = fgets($stream)) !== false;) {
    if (str_starts_with($line, 'data: ')) echo $line;
    if ($line === "event: close\\n") $closed = true;
}
exit($closed ? 0 : 1);
`, '--']
  }
}

// A killed server ends its connections, or resets those with unread data.
const ENDS: Array<[name: string, isComplete: boolean, end: (opened: OpenedSession) => unknown]> = [
  ['closed session', true, ({ session }) => session.close('done')],
  ['lost connection', false, ({ socket }) => socket.destroy()],
  ['reset connection', false, ({ socket }) => socket.resetAndDestroy()]
]

for (const [name, { command: [program, ...args], probe }] of Object.entries(READERS)) {
  t.test(`ten lines of code receive events at once and detect a killed server: ${name}`, needsProgram(program, probe), async t => {
    const { sessions, url } = await serve(t)
    const opened = recordOpenedSessions(sessions)
    for (const [endName, isComplete, end] of ENDS) {
      const reader = trackProcess(t, spawn(program, [...args, `${url}/downward`], { detached: true }), name)
      const exited = once(reader.process, 'exit') as Promise<[code: number | null]>
      await reader.waitForOutput(/data: {"sessionId"/, 60_000)
      const current = opened.at(-1) as OpenedSession
      for (const text of ['first', 'naïve']) {
        await current.session.send(text)
        await reader.waitForOutput(new RegExp(`data: "${text}"`))
      }
      await end(current)
      const [code] = await withTimeout(exited, `the exit of ${name}`)
      t.equal(code === 0, isComplete, `${endName}: exit code ${code}`)
    }
  })
}
