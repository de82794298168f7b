// A terminal client for the echo server. It sends each line that you type, and prints the events of the stream. Environment: URL.
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { Agent, EventSource, fetch } from 'undici'

/** @import { MessageEvent } from 'undici' */

const { URL: url = 'http://127.0.0.1:3000' } = process.env

// A stream may be idle for more than five minutes, which is the default body timeout of undici.
const source = new EventSource(`${url}/downward`, { node: { dispatcher: new Agent({ bodyTimeout: 0 }) } })
const terminal = createInterface({ input: process.stdin, output: process.stdout, prompt: '> ' })
const lines = terminal[Symbol.asyncIterator]()
let sessionId = ''

/** @param {string} text */
function print (text) {
  process.stdout.write(`\r${text}\n`)
  terminal.prompt(true)
}

/**
 * @param {string} event
 * @param {(data: Record<string, string>) => void} listener
 */
function on (event, listener) {
  source.addEventListener(event, message => listener(JSON.parse(/** @type {MessageEvent} */ (message).data)))
}

on('welcome', ({ sessionId: id = '', resumed, text, timestamp }) => {
  sessionId = id
  print(resumed ? 'Reconnected. No messages were lost.' : `[${timestamp}] ${text}`)
})
on('message', ({ text, timestamp }) => print(`[${timestamp}] ${text}`))
on('gap', () => print('Some messages were lost because the connection was down for too long.'))
on('close', ({ reason }) => {
  print(`The server closed the session: ${reason}`)
  process.exit()
})
source.addEventListener('error', () => print('Disconnected. Reconnecting …'))

await once(source, 'welcome')
for await (const line of lines) {
  if (line.trim() !== '') await send(line)
  terminal.prompt()
}
process.exit()

/** @param {string} text */
async function send (text) {
  try {
    const response = await fetch(`${url}/upward`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-session-id': sessionId },
      body: JSON.stringify({ text })
    })
    const body = /** @type {{ message: string }} */ (await response.json())
    if (!response.ok) print(`Not sent: ${body.message}`)
  } catch {
    print('Not sent: no connection.')
  }
}
