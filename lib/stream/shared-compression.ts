import { constants, deflateRawSync, inflateRawSync, type ZlibOptions } from 'node:zlib'
import type { Log } from '../log/log.js'
import { framePrefix } from '../wire/frame.js'
import type { Sink } from './response-sink.js'

// [RFC 1952 2.3] The header of a gzip stream without a name and a time.
const GZIP_HEADER = '\x1f\x8b\b\0\0\0\0\0\0\xff'
// [RFC 1951 3.2.4] The maximum length of a stored block.
const MAX_STORED_BYTES = 65_535
/** An empty stored block, which zlib adds after each compressed block. Some decoders, such as that of Go, return the data of a stored block only when they have read it. */
const FLUSH_MARKER = '\0\0\0\xff\xff'
/** Maximum number of earlier entries together with which an entry is compressed. */
const WINDOW_ENTRIES = 8
/** A window needs no more entries if they have this many characters. */
const WINDOW_CHARACTERS = 8 * 1024
/** Maximum number of dependent blocks of one entry, for streams with different windows. The last one is reserved for a window of one entry, which most streams have in common. */
const MAX_BLOCKS_PER_ENTRY = 4
/** Only this many entries at the end of a log are compressed, so that a long replay does not block the event loop for long. */
const MAX_DISTANCE_FROM_END = 64
/** Entries with more characters are not compressed, so that a large event does not block the event loop for long. */
const MAX_ENTRY_CHARACTERS = 32 * 1024
/** Maximum number of entries in the cache. */
const MAX_CACHED_ENTRIES = 1000
/** If the entries in the cache and their compressed forms have more characters, the oldest ones are removed before another is added. */
const MAX_CACHED_CHARACTERS = 4 * 1024 * 1024

/**
 * The session id with which entries are compressed. A DEFLATE match has at least three bytes. The bytes of this id never
 * occur in UTF-8, and no sequence of three occurs twice in it. So the only possible match is the same place in an earlier id.
 */
const TEMPLATE_ID = '\xc0\xc1\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff\xc0\xf5\xf7\xf9\xfb\xfd\xff\xc1\xf6\xf8\xfa'
/** A second session id, with which `compress` checks a block. All of its characters differ, so that a copy from a wrong place is detected. */
const CHECK_ID = 'ABCDEFGHIJKLMNOPQRSTUVWX'
const PREFIX_LENGTH = framePrefix(CHECK_ID).length

/** An entry with its compressed forms. When it is removed from the cache, these are dropped, but streams may still have it in their windows. */
interface CachedEntry {
  readonly position: number
  readonly removed: RemovedEntries
  /** Number of characters of `suffix`, also after its removal. */
  readonly length: number
  /** The part of the frame after the session id. `undefined` if the entry is not in the cache any more. */
  suffix: string | undefined
  /** The entry compressed on its own. A stream writes `before`, its own frame prefix, then `after`. */
  standalone: readonly [before: string, after: string] | undefined
  blocks: DependentBlock[]
  /** Number of characters of `suffix`, `standalone` and `blocks` together. */
  cachedCharacters: number
}

/** The entries of a log that were removed from the cache. */
interface RemovedEntries {
  newestPosition: number
}

/** The last entries that a stream has written. They are from the same log, and nothing was written between them. */
interface Window {
  readonly entries: readonly CachedEntry[]
  /** Whether the entries have the maximum number or enough characters, so that streams that have read the same entries have the same window. */
  readonly isFull: boolean
}

/** An entry as a DEFLATE block that refers to the entries before it. */
interface DependentBlock {
  /** The earlier entries. The last frames of the stream must be theirs. */
  readonly dictionary: readonly CachedEntry[]
  /** One character per byte. `undefined` if the block is not correct for all session ids. */
  readonly bytes: string | undefined
  /** The window after the block, for streams whose window was exactly `dictionary`. They share this object. */
  readonly windowAfter: Window
}

const EMPTY_WINDOW: Window = { entries: [], isFull: false }

/**
 * Compresses each entry of a log once for all streams. The result is a dependent block: a DEFLATE block that refers to the
 * entries before it. A stream can use the block if these entries are the last that it has written. A stream therefore needs
 * only the list of the last entries that it has written, not the state of a compressor.
 *
 * The session id in the frames is different in each stream. An entry is compressed with {@link TEMPLATE_ID}, so that its
 * block copies the id from the previous frame, where each stream has its own.
 *
 * The results are strings with one character per byte, because streams join and write strings faster than buffers.
 */
export class SharedCompression {
  /** By the part of the frame after the session id, and not by position, because a store that was restored to an earlier state assigns positions again. */
  readonly #entries = new Map<string, CachedEntry>()
  #cachedCharacters = 0
  /** By log, because positions of different Redis servers cannot be compared. Up to the newest position, no entry is compressed again, which limits the work for each entry. */
  readonly #removed = new WeakMap<Log, RemovedEntries>()

  /** Returns the cached entry, or adds it. Returns `undefined` if the entry should not be compressed. The entry stays in the cache at least until the next call. */
  getOrAddEntry (log: Log, index: number): CachedEntry | undefined {
    const suffix = log.frameSuffixAt(index)
    const cached = this.#entries.get(suffix)
    if (cached !== undefined) return cached
    const position = log.positionAt(index)
    const removed = this.#removed.get(log) ?? { newestPosition: 0 }
    if (position <= removed.newestPosition || log.end - index > MAX_DISTANCE_FROM_END || suffix.length > MAX_ENTRY_CHARACTERS) return undefined
    while (this.#entries.size >= MAX_CACHED_ENTRIES || this.#cachedCharacters > MAX_CACHED_CHARACTERS) this.#removeOldest()
    this.#removed.set(log, removed)
    const entry: CachedEntry = { position, removed, length: suffix.length, suffix, standalone: undefined, blocks: [], cachedCharacters: 0 }
    this.#entries.set(suffix, entry)
    this.#addCharacters(entry, suffix)
    return entry
  }

  /** Returns the entry compressed on its own, for a stream that can use no dependent block. */
  getOrCreateStandalone (entry: CachedEntry): readonly [before: string, after: string] {
    if (entry.standalone !== undefined) return entry.standalone
    const bytes = Buffer.from(entry.suffix as string)
    const deflated = deflateRawSync(bytes, createZlibOptions(bytes.length))
    const isStored = deflated.length >= bytes.length && PREFIX_LENGTH + bytes.length <= MAX_STORED_BYTES
    entry.standalone = isStored
      ? [formatStoredHeader(PREFIX_LENGTH + bytes.length), bytes.toString('latin1') + FLUSH_MARKER]
      : [formatStoredHeader(PREFIX_LENGTH), deflated.toString('latin1')]
    this.#addCharacters(entry, entry.standalone[1])
    return entry.standalone
  }

  /** Returns a dependent block of the entry for a stream with this window. Returns `undefined` if there is none and none can be created. */
  getOrCreateBlock (entry: CachedEntry, { entries, isFull }: Window): DependentBlock | undefined {
    if (entries.length === 0) return undefined
    // Windows that are not full yet differ between streams. So that streams share blocks anyway, they use only the previous entry until then.
    const full = isFull ? this.#findOrCreateBlock(entry, entries, MAX_BLOCKS_PER_ENTRY - 1) : undefined
    return full ?? this.#findOrCreateBlock(entry, entries.length === 1 ? entries : entries.slice(-1), MAX_BLOCKS_PER_ENTRY)
  }

  #findOrCreateBlock (entry: CachedEntry, dictionary: readonly CachedEntry[], maxBlocks: number): DependentBlock | undefined {
    for (const block of entry.blocks) {
      if (block.dictionary === dictionary || isEqual(block.dictionary, dictionary)) return block
    }
    if (entry.blocks.length >= maxBlocks || dictionary.some(({ suffix }) => suffix === undefined)) return undefined
    const block: DependentBlock = { dictionary, bytes: compress(entry, dictionary), windowAfter: appendToWindow(dictionary, entry) }
    entry.blocks.push(block)
    this.#addCharacters(entry, block.bytes ?? '')
    return block
  }

  #addCharacters (entry: CachedEntry, { length }: string): void {
    entry.cachedCharacters += length
    this.#cachedCharacters += length
  }

  #removeOldest (): void {
    const [[suffix, entry]] = this.#entries as unknown as [[string, CachedEntry]]
    this.#entries.delete(suffix)
    this.#cachedCharacters -= entry.cachedCharacters
    entry.removed.newestPosition = Math.max(entry.removed.newestPosition, entry.position)
    // The blocks refer to earlier entries, and these to others, so that a stream that waits for its client would keep all of them in memory.
    entry.suffix = undefined
    entry.standalone = undefined
    entry.blocks = []
  }
}

/** Encodes what one stream writes as gzip. The stream has no trailer, because its checksum would be different for each stream. */
export class StreamEncoder {
  readonly #compression: SharedCompression
  /** The `compressionScope` of the log of the window's entries. `undefined` if something else was written after them, which makes the window invalid. */
  #scope: string | undefined
  #window = EMPTY_WINDOW

  constructor (compression: SharedCompression) {
    this.#compression = compression
  }

  /** Encodes the first frames of the stream. */
  encodeStart (frames: string): string {
    return GZIP_HEADER + this.encodeFrames(frames)
  }

  /** Encodes frames without compression, so that their encoded size depends only on their length, not on their content. */
  encodeFrames (frames: string): string {
    if (frames === '') return ''
    this.#scope = undefined
    const bytes = Buffer.from(frames).toString('latin1')
    let encoded = ''
    for (let start = 0; start < bytes.length; start += MAX_STORED_BYTES) {
      const part = bytes.slice(start, start + MAX_STORED_BYTES)
      encoded += formatStoredHeader(part.length) + part
    }
    return encoded + FLUSH_MARKER
  }

  /** Encodes an entry of a log. `prefix` is the start of its frame, with the id of the session. */
  encodeEntry (log: Log, index: number, prefix: string): string {
    const { compressionScope } = log
    const entry = compressionScope === undefined ? undefined : this.#compression.getOrAddEntry(log, index)
    if (entry === undefined) return this.encodeFrames(prefix + log.frameSuffixAt(index))
    if (this.#scope !== compressionScope) {
      this.#scope = compressionScope
      this.#window = EMPTY_WINDOW
    }
    const { entries } = this.#window
    const block = this.#compression.getOrCreateBlock(entry, this.#window)
    // The shared window applies only if the block used the whole window.
    this.#window = block?.dictionary.length === entries.length ? block.windowAfter : appendToWindow(entries, entry)
    if (block?.bytes !== undefined) return block.bytes
    const [before, after] = this.#compression.getOrCreateStandalone(entry)
    return before + prefix + after
  }
}

/** Ends a response with frames, instead of starting a stream. If the response has the header `Content-Encoding: gzip`, pass the encoder. */
export function endWithoutStream (sink: Sink, encoder: StreamEncoder | undefined, frames: string): void {
  if (encoder === undefined) sink.end(frames)
  else sink.end(encoder.encodeStart(frames), 'latin1')
}

/** Creates the window after an entry. It contains the last entries until it is full. */
function appendToWindow (entries: readonly CachedEntry[], entry: CachedEntry): Window {
  const appended = [...entries, entry]
  let start = appended.length
  let characters = 0
  let isFull = false
  while (start > 0 && !isFull) {
    start--
    characters += (appended[start] as CachedEntry).length
    isFull = appended.length - start === WINDOW_ENTRIES || characters >= WINDOW_CHARACTERS
  }
  return { entries: appended.slice(start), isFull }
}

/** Compresses an entry together with earlier ones. Returns `undefined` if the result is not correct for all session ids. */
function compress (entry: CachedEntry, dictionary: readonly CachedEntry[]): string | undefined {
  const frame = concatFrames([entry], TEMPLATE_ID)
  const options = createZlibOptions(frame.length)
  const block = deflateRawSync(frame, { ...options, dictionary: concatFrames(dictionary, TEMPLATE_ID) })
  // The block can contain bytes of TEMPLATE_ID, for example if the previous frame is too far away. Otherwise each byte of the id is
  // copied from the same place in an earlier id.
  const inflated = inflateRawSync(block, { ...options, dictionary: concatFrames(dictionary, CHECK_ID) })
  return inflated.equals(concatFrames([entry], CHECK_ID)) ? block.toString('latin1') : undefined
}

/** Creates the options for compressing or decompressing a number of bytes. */
function createZlibOptions (length: number): ZlibOptions {
  // The default buffer for the result, 16 KiB, would double the time for an entry of usual length.
  return { finishFlush: constants.Z_SYNC_FLUSH, chunkSize: length + 64 }
}

/** Concatenates the frames of entries for a session id, which may contain any bytes. */
function concatFrames (entries: readonly CachedEntry[], id: string): Buffer {
  const prefix = Buffer.from(framePrefix(id), 'latin1')
  return Buffer.concat(entries.flatMap(({ suffix }) => [prefix, Buffer.from(suffix as string)]))
}

/** Formats the header of a stored block, which begins at a byte boundary. */
function formatStoredHeader (length: number): string {
  // [RFC 1951 3.2.4]
  return String.fromCharCode(0, length & 0xff, length >>> 8, ~length & 0xff, (~length >>> 8) & 0xff)
}

function isEqual (first: readonly CachedEntry[], second: readonly CachedEntry[]): boolean {
  return first.length === second.length && first.every((entry, index) => entry === second[index])
}
