/** Has something to write. */
export interface Writer {
  flush (): void
}

// A turn of the event loop writes for so many, or for a quarter of those that wait where that is more.
const LEAST = 128
const SHARE = 4

/** Those that write now; those before `next` have. */
let writing: Writer[] = []
let next = 0
/** Those that were woken since. */
let waiting: Writer[] = []
/** Whether a turn is to come. */
let awaited = false

/**
 * Has a writer write in a turn of its own: soon, and one after another. Where many wait, the event loop does other
 * things meanwhile, and what comes for them until then goes in the same write.
 */
export function flushSoon (writer: Writer): void {
  waiting.push(writer)
  goOn()
}

/** Has all that wait write now: those whose turn has begun, then the others. */
export function flushNow (): void {
  flush(Infinity)
  flush(Infinity)
}

function goOn (): void {
  if (awaited) return
  awaited = true
  setImmediate(turn)
}

function turn (): void {
  awaited = false
  try {
    flush(LEAST)
  } finally {
    // One that fails does not keep the others waiting for ever.
    if (writing.length > 0 || waiting.length > 0) goOn()
  }
}

function flush (least: number): void {
  if (writing.length === 0) {
    writing = waiting
    waiting = []
  }
  const these = writing
  const end = Math.min(these.length, next + Math.max(least, Math.ceil(these.length / SHARE)))
  while (next < end) {
    (these[next++] as Writer).flush()
    // It may have had all write at once.
    if (writing !== these) return
  }
  if (next < these.length) return
  writing = []
  next = 0
}
