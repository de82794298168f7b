// Compares the CPU time of the client's parser with that of eventsource-parser, for one large event in small chunks, in one process.
// Run it with `node bench/event-stream-parser.js`, after `npm run build`.
import { createParser as createOther } from 'eventsource-parser'
import { createParser } from '../dist/client/event-stream-parser.js'

const CHUNK_SIZE = 1024
const MiB = 2 ** 20
const ROUNDS = 5

const PARSERS = {
  'this package': onEvent => createParser({ onId () {}, onRetry () {}, onEvent: (_name, data) => { onEvent(data) } }),
  'eventsource-parser': onEvent => createOther({ onEvent: ({ data }) => { onEvent(data) } }).feed
}

/** Returns the CPU time in milliseconds. */
function measure (create, chunks, size) {
  const start = process.cpuUsage()
  let received = 0
  const parse = create(data => { received = data.length })
  for (const chunk of chunks) parse(chunk)
  if (received !== size) throw new Error(`Expected ${size} characters of data, got ${received}`)
  const { user, system } = process.cpuUsage(start)
  return (user + system) / 1000
}

for (const lines of ['one line', 'lines of 100 characters']) {
  for (const size of [MiB, 15 * MiB]) {
    const data = lines === 'one line' ? 'x'.repeat(size) : 'x'.repeat(99).concat('\n').repeat(Math.ceil(size / 100)).slice(0, size - 1).concat('x')
    const text = data.split('\n').map(line => `data: ${line}\n`).join('') + '\n'
    // Each chunk is a string of its own, as a decoder returns it.
    const chunks = Array.from({ length: Math.ceil(text.length / CHUNK_SIZE) }, (_, n) => Buffer.from(text.slice(n * CHUNK_SIZE, (n + 1) * CHUNK_SIZE)).toString())
    for (const [name, create] of Object.entries(PARSERS)) {
      const times = Array.from({ length: ROUNDS }, () => measure(create, chunks, size))
      console.log(`${size / MiB} MiB in ${lines}, in chunks of ${CHUNK_SIZE} bytes, ${name}: ${Math.min(...times).toFixed(1)} ms`)
    }
  }
}
