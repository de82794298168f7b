/** Comes before the number of each event. */
const MARKER = Buffer.from('"n":')
const COMMA = ','.charCodeAt(0)
const ZERO = '0'.charCodeAt(0)

/** Finds the number of each event in the bytes of one stream, and checks that it is the next. */
export class EventCounter {
  /** The number that the next event must have. */
  next = 1
  /** The start of a marker or number that the last chunk cut off. */
  #remainder

  /** Returns how many events the chunk completes. Throws if one of them is not the next. */
  count (chunk) {
    const bytes = this.#remainder === undefined ? chunk : Buffer.concat([this.#remainder, chunk])
    this.#remainder = undefined
    const first = this.next
    for (let at = bytes.indexOf(MARKER); at !== -1; at = bytes.indexOf(MARKER, at)) {
      const start = at
      let n = 0
      for (at += MARKER.length; at < bytes.length && bytes[at] !== COMMA; at++) n = n * 10 + bytes[at] - ZERO
      if (at === bytes.length) {
        this.#remainder = Buffer.from(bytes.subarray(start))
        break
      }
      if (n !== this.next) throw new Error(`Received event ${n}, expected ${this.next}`)
      this.next++
    }
    const lastByte = bytes[bytes.length - 1]
    if (this.#remainder === undefined && MARKER.includes(lastByte)) this.#remainder = Buffer.from(bytes.subarray(1 - MARKER.length))
    return this.next - first
  }
}
