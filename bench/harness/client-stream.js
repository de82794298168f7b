import { connect } from 'node:net'
import { EventCounter } from './event-counter.js'

const MAX_SAMPLE_LENGTH = 256 * 1024
// All sockets read into this buffer: each read is processed before the next begins.
const sharedBuffer = Buffer.allocUnsafe(256 * 1024)

/**
 * The stream of one client. It is a bare socket, so that thousands cost little: it finds the number of each event in the
 * bytes and checks that it is the next. A sampled stream also keeps everything it receives, to be parsed later.
 */
export class ClientStream {
  sessionId
  /** Called with the number of events that have just arrived. */
  onEvents
  /** Resolves when the welcome has arrived. */
  opened
  #load
  #protocol
  #socket
  #opening
  #isEndExpected = false
  /** The bytes before the welcome is complete, as text. */
  #openingText = ''
  /** The response head and the first fields of the welcome. */
  #preamble
  #counter = new EventCounter()
  #sample
  #sampleLength = 0

  constructor (load, { port, headers, isSampled = false }) {
    this.#load = load
    this.#protocol = load.protocol
    if (isSampled) this.#sample = []
    this.opened = new Promise((resolve, reject) => {
      this.#opening = { resolve, reject }
    })
    this.#socket = connect({ port, host: '127.0.0.1', noDelay: true, onread: { buffer: sharedBuffer, callback: size => this.#read(size) } })
    this.#socket.write(this.#protocol.openRequest(headers))
    this.#socket.on('error', error => { this.#handleEnd(error) })
    this.#socket.on('close', () => { this.#handleEnd(new Error('The server closed the connection')) })
  }

  /** The number that the next event must have. */
  get next () {
    return this.#counter.next
  }

  /** The reconnect delay from the server's `retry` field, in milliseconds. */
  get retry () {
    return Number(/retry: (\d+)/.exec(this.#preamble)[1])
  }

  /** The event id of the welcome, from which a client resumes if it has received no event since. */
  get welcomeId () {
    return /\nid: (.+)/.exec(this.#preamble)[1]
  }

  /** Everything received, if the stream is sampled and it was not too much to keep. */
  get sample () {
    return this.#sample?.join('')
  }

  send (bytes) {
    this.#socket.write(bytes)
  }

  /** Stops reading permanently. */
  stall () {
    this.#isEndExpected = true
    this.#socket.pause()
  }

  destroy () {
    this.#isEndExpected = true
    // A reset skips TIME_WAIT, which would use up the ports.
    this.#socket.resetAndDestroy()
  }

  #handleEnd (cause) {
    if (this.#opening !== undefined) this.#opening.reject(new Error('A stream failed before its welcome', { cause }))
    else if (!this.#isEndExpected) this.#load.fail(new Error('An open stream failed', { cause }))
  }

  #read (size) {
    const chunk = sharedBuffer.subarray(0, size)
    this.#load.bytes += size
    if (this.#sample !== undefined) this.#keep(chunk)
    if (this.#opening !== undefined) {
      this.#receiveWelcome(chunk)
    } else {
      const { ping, pong } = this.#protocol
      if (ping !== undefined && chunk.includes(ping)) this.#socket.write(pong)
      // Between broadcasts, servers send nothing but heartbeats.
      if (this.#receiveEvents(chunk) === 0) this.#load.countHeartbeat()
    }
    return true
  }

  #keep (chunk) {
    this.#sample.push(chunk.latin1Slice())
    this.#sampleLength += chunk.length
    if (this.#sampleLength > MAX_SAMPLE_LENGTH) this.#sample = undefined
  }

  #receiveWelcome (chunk) {
    const { afterUpgrade, welcome } = this.#protocol
    if (this.#openingText === '' && afterUpgrade !== undefined) this.#socket.write(afterUpgrade)
    this.#openingText += chunk.latin1Slice()
    const match = welcome.exec(this.#openingText)
    if (match === null) return
    const { resolve } = this.#opening
    this.#opening = undefined
    this.sessionId = match[1]
    this.#preamble = this.#openingText.slice(0, match.index)
    // The first events may have arrived in the same chunk.
    this.#receiveEvents(Buffer.from(this.#openingText.slice(match.index), 'latin1'))
    this.#openingText = ''
    resolve()
  }

  /** Checks the numbers of all events in the chunk and returns how many there were. */
  #receiveEvents (chunk) {
    try {
      const first = this.next
      const count = this.#counter.count(chunk)
      if (count > 0) {
        this.#load.countEvents(first, count)
        this.onEvents?.(count)
      }
      return count
    } catch (error) {
      this.#load.fail(error)
      return 0
    }
  }
}
