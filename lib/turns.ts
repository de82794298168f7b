/** Has something to write. */
export interface Writer {
  flush (): void
}

// A turn of the event loop writes for so many, or for a quarter of those that wait where that is more.
const LEAST = 128
const SHARE = 4

/** Those that write now, of which those before #next have. */
let writing: Writer[] = []
let next = 0
/** Those that were woken since. */
let waiting: Writer[] = []
let rounds = 0

/**
 * How often all that waited have written. What was there before this last grew has been offered to every stream, and
 * is held up by none but clients that do not keep up.
 */
export const flushes = (): number => rounds

/**
 * Has a writer write in a turn of its own: soon, and one after another. Where many wait, the event loop does other
 * things meanwhile, and what comes for them until then goes in the same write.
 */
export function flushSoon (writer: Writer): void {
  if (waiting.push(writer) === 1 && writing.length === 0) setImmediate(turn)
}

/** Has all that wait write now. */
export function flushNow (): void {
  flush(Infinity)
  flush(Infinity)
  rounds++
}

function turn (): void {
  flush(LEAST)
  if (writing.length > 0 || waiting.length > 0) setImmediate(turn)
  else rounds++
}

function flush (least: number): void {
  if (writing.length === 0) {
    writing = waiting
    waiting = []
  }
  const end = Math.min(writing.length, next + Math.max(least, Math.ceil(writing.length / SHARE)))
  while (next < end) (writing[next++] as Writer).flush()
  if (next < writing.length) return
  writing = []
  next = 0
}
