import { connect } from 'node:net'

const MARK = Buffer.from('"n":')
const COMMA = ','.charCodeAt(0)
const SAMPLE_CHARACTERS = 256 * 1024
// All sockets read into it, one at a time.
const shared = Buffer.allocUnsafe(256 * 1024)

/**
 * A client's stream, on a bare socket so that thousands cost little: it finds the number of each event in the bytes and
 * checks that it is the next. A sampled one keeps what came, for the whole of it to be parsed later.
 */
export class Stream {
  sessionId
  /** The number that the next event must have. */
  next
  /** Called with how many events have just come. */
  onEvents
  /** Called when the stream is over, which is an error otherwise. */
  onEnd
  #load
  #dialect
  #socket
  #greeting = ''
  #carry
  #sample
  #kept = 0
  /** The response's head and the first fields of the welcome. */
  #preface
  #opening

  constructor (load, { dialect, port }, { headers, next = 1, sampled = false } = {}) {
    this.#load = load
    this.#dialect = dialect
    this.next = next
    if (sampled) this.#sample = []
    this.opened = new Promise((resolve, reject) => {
      this.#opening = { resolve, reject }
    })
    this.#socket = connect({ port, host: '127.0.0.1', noDelay: true, onread: { buffer: shared, callback: size => this.#read(size) } })
    this.#socket.write(dialect.hello(headers))
    this.#socket.on('error', error => { this.#over(error) })
    this.#socket.on('close', () => { this.#over(new Error('The server has ended a stream')) })
  }

  /** How long the server wants its client to wait before it comes back. */
  get retry () {
    return Number(/retry: (\d+)/.exec(this.#preface)[1])
  }

  /** The id of the welcome, with which a client comes back that has got no event since. */
  get lastId () {
    return /\nid: (.+)/.exec(this.#preface)[1]
  }

  /** What came, if it was sampled and is not too much to keep. */
  get sample () {
    return this.#sample?.join('')
  }

  send (bytes) {
    this.#socket.write(bytes)
  }

  /** Stops reading, for good. */
  stall () {
    this.onEnd = () => {}
    this.#socket.pause()
  }

  destroy () {
    this.onEnd ??= () => {}
    // A reset leaves nothing behind that would use the ports up.
    this.#socket.resetAndDestroy()
  }

  #over (error) {
    if (this.#opening !== undefined) this.#opening.reject(error)
    else if (this.onEnd !== undefined) this.onEnd()
    else this.#load.fail(error)
  }

  #read (size) {
    const chunk = shared.subarray(0, size)
    this.#load.bytes += size
    if (this.#sample !== undefined) this.#keep(chunk)
    if (this.#opening !== undefined) {
      this.#greet(chunk)
    } else {
      if (this.#dialect.ping !== undefined && chunk.includes(this.#dialect.ping)) this.#socket.write(this.#dialect.pong)
      if (this.#count(chunk) === 0) this.#load.pulse()
    }
    return true
  }

  #keep (chunk) {
    this.#sample.push(chunk.latin1Slice())
    this.#kept += chunk.length
    if (this.#kept > SAMPLE_CHARACTERS) this.#sample = undefined
  }

  #greet (chunk) {
    if (this.#greeting === '' && this.#dialect.greeted !== undefined) this.#socket.write(this.#dialect.greeted)
    this.#greeting += chunk.latin1Slice()
    const welcome = this.#dialect.welcome.exec(this.#greeting)
    if (welcome === null) return
    const { resolve } = this.#opening
    this.#opening = undefined
    this.sessionId = welcome[1]
    this.#preface = this.#greeting.slice(0, welcome.index)
    this.#count(Buffer.from(this.#greeting.slice(welcome.index), 'latin1'))
    this.#greeting = ''
    resolve(this)
  }

  #count (chunk) {
    const bytes = this.#carry === undefined ? chunk : Buffer.concat([this.#carry, chunk])
    this.#carry = undefined
    let count = 0
    for (let at = bytes.indexOf(MARK); at !== -1; at = bytes.indexOf(MARK, at)) {
      const start = at
      let n = 0
      for (at += MARK.length; at < bytes.length && bytes[at] !== COMMA; at++) n = n * 10 + bytes[at] - 48
      if (at === bytes.length) {
        this.#carry = Buffer.from(bytes.subarray(start))
        break
      }
      if (n !== this.next) {
        this.#load.fail(new Error(`Event ${n} came where ${this.next} was due`))
        return count
      }
      this.next++
      count++
    }
    const last = bytes[bytes.length - 1]
    if (this.#carry === undefined && MARK.includes(last)) this.#carry = Buffer.from(bytes.subarray(-3))
    if (count > 0) {
      this.#load.add(count)
      this.onEvents?.(count)
    }
    return count
  }
}
