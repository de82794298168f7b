import { constants, createGzip, gunzipSync } from 'node:zlib'
import Fastify from 'fastify'
import t from 'tap'
import { Log, type LogBounds } from '../../lib/log/log.js'
import type { LogRange } from '../../lib/log/log-range.js'
import { SharedCompression, StreamEncoder } from '../../lib/stream/shared-compression.js'
import { StreamWriter } from '../../lib/stream/stream-writer.js'
import { IdGenerator } from '../../lib/wire/event-id.js'
import { frameEvent, HEARTBEAT_FRAME } from '../../lib/wire/frame.js'
import { MemorySink } from '../support/memory-sink.js'
import { chooseSeed, createRandom } from '../support/random.js'

const { log: logger } = Fastify({ logger: false })
const owner = { canWrite: true, onProgress: () => {}, onGap: () => {}, onStreamClose: () => {} }
const ids = new IdGenerator()

const createLog = (compressionScope: string | undefined, bounds: Partial<LogBounds> = {}): Log => {
  return Object.assign(new Log({ entries: 5000, bytes: 1e8, age: Infinity, ...bounds }, { onAppend: () => {} }), { compressionScope })
}

// More than the length of all data in these tests.
const MAX_DATA_LENGTH = 300_000

/** A compressed stream, and one without compression to which the same happens. */
class StreamPair {
  readonly compressed: MemorySink
  readonly uncompressed: MemorySink
  readonly #writers: StreamWriter[]

  constructor (compression: SharedCompression, ranges: readonly LogRange[], cursor = 0, readerId = ids.next()) {
    this.compressed = new MemorySink(false, MAX_DATA_LENGTH)
    this.uncompressed = new MemorySink(false, MAX_DATA_LENGTH)
    const options = { readerId, ranges, cursor, owner, logger }
    this.#writers = [
      new StreamWriter({ ...options, sink: this.compressed, encoder: new StreamEncoder(compression) }),
      new StreamWriter({ ...options, sink: this.uncompressed })
    ]
    for (const writer of this.#writers) writer.start(`: ${readerId} größer\n\n`)
  }

  /** Whether the compressed stream contains the same as the other one. A comparison that prints the differences would take minutes. */
  get isCorrect (): boolean {
    return gunzipSync(Buffer.from(this.compressed.text, 'latin1'), { finishFlush: constants.Z_SYNC_FLUSH }).equals(Buffer.from(this.uncompressed.text))
  }

  each (run: (writer: StreamWriter) => void): void {
    for (const writer of this.#writers) run(writer)
  }

  flush (): void {
    this.each(writer => {
      writer.onAppend()
      writer.flush()
    })
  }

  stall (stalls: boolean): void {
    for (const sink of [this.compressed, this.uncompressed]) {
      if (stalls) sink.stalls = true
      else sink.drain(false)
    }
  }
}

/** Appends entries to logs that share the counter for their positions. */
class Appender {
  position = 0

  append (log: Log, frame: string, options: { except?: readonly string[], key?: string } = {}): void {
    log.push({ frame, ...options }, ++this.position, 0)
  }
}

/** Text of random words with about so many characters. It contains characters of all lengths in UTF-8. */
function createText (random: () => number, length: number): string {
  let text = ''
  while (text.length < length) text += `${['price', 'Größe', '日本', '☃', '🎉', 'id: ', 'event', '\u007f'][Math.floor(random() * 8)] as string}${Math.floor(random() * 1000)} `
  return text
}

t.test('decodes to the same bytes as an uncompressed stream in random scenarios', async t => {
  const seed = chooseSeed(t)
  for (let round = 0; round < 20; round++) {
    const random = createRandom(seed + round)
    const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T
    const compression = new SharedCompression()
    const appender = new Appender()
    // A log that is short loses entries before slow streams have read them. One that is long has entries that are too old to be compressed.
    const [entries, maxLength] = pick([[10, 3000], [10, 300], [120, 300]] as const)
    const logs = ['', 'a', 'b'].map(scope => createLog(scope, { entries }))
    const unscopedLog = createLog(undefined, { entries })
    const pairs: StreamPair[] = []
    const readerIds = Array.from({ length: 6 }, () => ids.next())
    const ranges = readerIds.map((): LogRange[] => [])
    for (let step = 0; step < 400; step++) {
      const action = random()
      const index = Math.floor(random() * pairs.length)
      const pair = pairs[index]
      if (action < 0.6) {
        // Most events are sent to one log, so that streams have windows of several entries.
        const log = random() < 0.8 ? logs[0] as Log : pick([...logs, unscopedLog])
        const except = random() < 0.1 ? [pick(readerIds)] : undefined
        const key = random() < 0.1 ? 'key' : undefined
        for (let count = pick([1, 1, 1, 30]); count > 0; count--) {
          appender.append(log, frameEvent(pick(['message', 'tick']), createText(random, random() * maxLength)), { ...except && { except }, ...key !== undefined && { key } })
        }
        if (random() < 0.7) for (const pair of pairs) pair.flush()
      } else if (pair === undefined || (action < 0.65 && pairs.length < readerIds.length)) {
        const own = ranges[pairs.length] as LogRange[]
        own.push(...[...logs.filter(() => random() < 0.7), unscopedLog].map(log => ({ log, from: 0, to: Infinity })))
        pairs.push(new StreamPair(compression, own, Math.floor(random() * appender.position), readerIds[pairs.length]))
      } else if (action < 0.75) {
        pair.flush()
      } else if (action < 0.83) {
        pair.stall(random() < 0.5)
      } else if (action < 0.88) {
        pair.each(writer => { writer.writeHeartbeat(HEARTBEAT_FRAME) })
      } else if (action < 0.92) {
        const log = pick(logs)
        if (log.length > 0) log.dropOldest()
      } else if (action < 0.96) {
        // The session leaves a channel.
        for (const range of ranges[index] as LogRange[]) if (random() < 0.2) range.to = Math.min(range.to, appender.position)
      }
    }
    for (const pair of pairs) {
      pair.stall(false)
      pair.each(writer => { writer.end({ finalFrame: 'event: close\ndata: {}\n\n', reason: 'closed', drain: true }) })
      pair.each(writer => { writer.flush() })
      t.ok(pair.compressed.closed)
      t.ok(pair.isCorrect, `stream of round ${round}`)
    }
  }
})

/** Creates the event of a chat with about 160 bytes. */
function createChatEvent (random: () => number, n: number): string {
  const words = ['hello', 'server', 'stream', 'later', 'maybe', 'coffee', 'deploy', 'release', 'monday', 'thanks', 'question', 'answer']
  const text = Array.from({ length: 8 }, () => words[Math.floor(random() * words.length)]).join(' ')
  return frameEvent('chat', { id: 1000 + n, user: ['anna', 'bob', 'eve'][Math.floor(random() * 3)], text, time: new Date(1.7e12 + n * 1371).toISOString() })
}

/** The event of a chat takes fewer bytes if it is compressed together with earlier ones. */
const DEPENDENT_CHAT_EVENT_BYTES = 110

/** Compresses a stream with a compressor of its own. Resolves with the number of bytes for each chunk. */
async function compressSeparately (chunks: readonly string[]): Promise<number[]> {
  const gzip = createGzip()
  const sizes: number[] = []
  for (const chunk of chunks) {
    gzip.write(chunk)
    await new Promise<void>(resolve => { gzip.flush(constants.Z_SYNC_FLUSH, resolve) })
    sizes.push((gzip.read() as Buffer).length)
  }
  return sizes
}

t.test('is at most 1.4 times as large as with a compressor for each stream', async t => {
  const random = createRandom(1)
  for (const [name, createEvent] of Object.entries({
    chat: (n: number) => createChatEvent(random, n),
    prices: (n: number) => frameEvent('price', { symbol: ['AAPL', 'MSFT'][n % 2], bid: Math.floor(random() * 1e5) / 100, ask: Math.floor(random() * 1e5) / 100, time: 1.7e12 + n * 137 }),
    HTML: (n: number) => frameEvent('patch', `<ul>${Array.from({ length: 100 }, (_, row) => `<li class="item"><a href="/items/${row}">${Math.floor(random() * 1e4)}</a></li>`).join('')}</ul> ${n}`)
  })) {
    const log = createLog('')
    const pair = new StreamPair(new SharedCompression(), [{ log, from: 0, to: Infinity }])
    const appender = new Appender()
    for (let n = 0; n < 100; n++) {
      appender.append(log, createEvent(n))
      pair.flush()
    }
    const separate = await compressSeparately(pair.uncompressed.chunks)
    const sum = (sizes: readonly number[]): number => sizes.slice(10).reduce((sum, size) => sum + size, 0)
    const ratio = sum(pair.compressed.chunks.map(({ length }) => length)) / sum(separate)
    t.ok(ratio < 1.4, `${name}: ${ratio.toFixed(2)}`)
  }
})

/** Creates two pairs of streams that read the same logs. `send` appends an event and returns the last chunk of each compressed stream. */
function createPairs (ranges: LogRange[] = [{ log: createLog(''), from: 0, to: Infinity }]): { first: StreamPair, second: StreamPair, compression: SharedCompression, send: (frame: string, options?: { except?: readonly string[], log?: Log }) => [first: string, second: string], appender: Appender } {
  const compression = new SharedCompression()
  const appender = new Appender()
  const first = new StreamPair(compression, ranges)
  const second = new StreamPair(compression, ranges)
  return {
    first,
    second,
    compression,
    appender,
    send: (frame, { log = ranges[0]?.log as Log, ...options } = {}) => {
      appender.append(log, frame, options)
      return [first, second].map(pair => {
        pair.flush()
        return pair.compressed.chunks.at(-1) as string
      }) as [string, string]
    }
  }
}

t.test('streams share a block if their last entries are the same', async t => {
  const random = createRandom(2)
  const { first, second, send } = createPairs()
  let [one, two] = send(createChatEvent(random, 0))
  t.notSame(one, two, 'the first entry contains the id of the session')
  for (let n = 1; n < 20; n++) {
    [one, two] = send(createChatEvent(random, n))
    t.strictSame(one, two)
    t.ok(one.length < DEPENDENT_CHAT_EVENT_BYTES)
  }
  first.each(writer => { writer.writeHeartbeat(HEARTBEAT_FRAME) })
  const sizes = []
  for (let n = 20; n < 30; n++) {
    [one, two] = send(createChatEvent(random, n))
    sizes.push([one.length > DEPENDENT_CHAT_EVENT_BYTES, one === two])
  }
  t.strictSame(sizes, [[true, false], ...Array.from({ length: 7 }, () => [false, false]), [false, true], [false, true]], 'after something else, one entry is written without a block, and after eight entries the window is full again')
  for (const pair of [first, second]) t.ok(pair.isCorrect)
})

t.test('an entry is never compressed together with entries of other logs or of a session', async t => {
  const secret = 'data: "a secret that is much longer than everything else in this event, and is sent in each of the logs"\n\n'
  const [a, b, own] = [createLog('a'), createLog('b'), createLog(undefined)]
  const { send } = createPairs([a, b, own].map(log => ({ log, from: 0, to: Infinity })))
  const sizes = [a, a, b, b, own, own, a].map(log => send(secret, { log })[0].length > 50)
  t.strictSame(sizes, [true, false, true, false, true, true, true])
})

t.test('limits the blocks of an entry to four', async t => {
  const random = createRandom(3)
  const log = createLog('')
  const compression = new SharedCompression()
  const appender = new Appender()
  const readerIds = Array.from({ length: 8 }, () => ids.next())
  const pairs = readerIds.map(id => new StreamPair(compression, [{ log, from: 0, to: Infinity }], 0, id))
  const send = (except?: readonly string[]): string[] => {
    appender.append(log, createChatEvent(random, appender.position), except && { except })
    return pairs.map(pair => {
      pair.flush()
      return pair.compressed.chunks.at(-1) as string
    })
  }
  for (let n = 0; n < 8; n++) send()
  for (const id of readerIds.slice(0, 4)) send([id])
  send()
  const blocks = send()
  t.equal(new Set(blocks).size, 4, 'three blocks for full windows, and one for one entry')
  t.equal(new Set(blocks.slice(3)).size, 1, 'the latter is shared')
  t.ok(blocks.every(block => block.length < DEPENDENT_CHAT_EVENT_BYTES))
  for (const pair of pairs) t.ok(pair.isCorrect)
})

t.test('frames of any size are encoded', async t => {
  const random = createRandom(4)
  const noise = (length: number): string => `data: ${Array.from({ length }, () => String.fromCharCode(33 + Math.floor(random() * 90))).join('')}\n\n`
  const { first, second, send } = createPairs()
  // Too large for one stored block; too far from the previous id; not compressible.
  for (const length of [10, 70_000, 10, 40_000, 10, 65_500, 5, 1000, 1000, 1000]) send(noise(length))
  const heartbeat = noise(140_000)
  first.each(writer => { writer.writeHeartbeat(heartbeat) })
  send(noise(3))
  for (const pair of [first, second]) t.ok(pair.isCorrect)
})

t.test('a large entry is not compressed, because that would block the event loop', async t => {
  const { first, second, send } = createPairs()
  const [large] = send(frameEvent('message', 'x'.repeat(32 * 1024 + 1)))
  t.ok(large.length > 32 * 1024)
  t.ok(send(frameEvent('message', 'x'.repeat(32 * 1024 - 100)))[0].length < 1000)
  for (const pair of [first, second]) t.ok(pair.isCorrect)
})

t.test('a long replay is compressed only at its end', async t => {
  const log = createLog('')
  const appender = new Appender()
  const entries = 200
  // See MAX_DISTANCE_FROM_END.
  const compressedEntries = 64
  const dataLength = 500
  // With the id, the field name, and the start and the end of a stored block.
  const maxFrameLength = dataLength + 52
  for (let n = 0; n < entries; n++) appender.append(log, frameEvent('message', 'x'.repeat(dataLength)))
  const pair = new StreamPair(new SharedCompression(), [{ log, from: 0, to: Infinity }])
  t.ok(pair.isCorrect)
  const { length } = pair.compressed.text
  const uncompressedEntries = entries - compressedEntries
  t.ok(length > uncompressedEntries * dataLength)
  t.ok(length < (uncompressedEntries + 4) * maxFrameLength, 'the last entries are together not larger than four that are not compressed')
})

for (const { bound, length, count } of [{ bound: 'number of entries', length: 100, count: 1100 }, { bound: 'number of characters', length: 30_000, count: 200 }]) {
  t.test(`does not compress an entry again after eviction because of the ${bound}`, async t => {
    const [log, other] = [createLog('log'), createLog('other')]
    const { first, second, send, appender, compression } = createPairs([{ log, from: 0, to: Infinity }])
    const busy = new StreamPair(compression, [{ log: other, from: 0, to: Infinity }])
    const createFrame = (n: number): string => frameEvent('message', `${n} ${'x'.repeat(100)}`)
    for (let n = 0; n < 10; n++) send(createFrame(n))
    appender.append(log, createFrame(10))
    first.flush()
    t.ok((first.compressed.chunks.at(-1) as string).length < 50)
    const random = createRandom(5)
    for (let n = 0; n < count; n++) {
      appender.append(other, frameEvent('message', createText(random, length)))
      busy.flush()
    }
    second.flush()
    t.match(second.compressed.chunks.at(-1), createFrame(10), 'the entry is not compressed')
    const [block] = send(createFrame(11))
    t.ok(block.length > 50, 'a window of evicted entries is not used')
    for (const pair of [first, second]) t.ok(pair.isCorrect)
  })
}

t.test('does not return an old entry for a position that is assigned again', async t => {
  const [before, after] = [createLog(''), createLog('')]
  const compression = new SharedCompression()
  for (const log of [before, after]) {
    const pair = new StreamPair(compression, [{ log, from: 0, to: Infinity }])
    const appender = new Appender()
    for (let n = 0; n < 20; n++) {
      appender.append(log, frameEvent('message', `${log === before ? 'before' : 'after'} ${n}`))
      pair.flush()
    }
    t.ok(pair.isCorrect)
  }
})

t.test('compresses the entries of a log whose positions are much lower than those of another one, but none a second time', t => {
  const compression = new SharedCompression()
  const [high, low] = [createLog('a'), createLog('a')]
  const addNewest = (log: Log, position: number): unknown => {
    log.push({ frame: frameEvent('n', position) }, position, 0)
    return compression.getOrAddEntry(log, log.end - 1)
  }
  // More than the cache contains.
  for (let n = 1; n <= 1001; n++) addNewest(high, 10_000 + n)
  t.match(addNewest(low, 1), { position: 1 })
  for (let n = 1; n <= 1000; n++) addNewest(high, 20_000 + n)
  t.equal(compression.getOrAddEntry(low, low.end - 1), undefined)
  t.match(addNewest(low, 2), { position: 2 })
  t.end()
})
