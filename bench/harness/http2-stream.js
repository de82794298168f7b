import { connect } from 'node:net'
import { EventCounter } from './event-counter.js'

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
const DATA = 0
const HEADERS = 1
const SETTINGS = 4
const PING = 6
const WINDOW_UPDATE = 8
const CONNECTION_TYPES = new Set([SETTINGS, PING, WINDOW_UPDATE])
const ACK = 1
const END_STREAM = 1
const END_HEADERS = 4
const HEADER_LENGTH = 9
const INITIAL_WINDOW_SIZE = 4
const MAX_WINDOW_SIZE = 2 ** 31 - 1
/** The window of a connection cannot be set, only increased. */
const DEFAULT_WINDOW_SIZE = 65_535
// All sockets read into this buffer: each read is processed before the next begins.
const sharedBuffer = Buffer.allocUnsafe(256 * 1024)

function frame (type, flags, streamId, payload = Buffer.alloc(0)) {
  const header = Buffer.alloc(HEADER_LENGTH)
  header.writeUIntBE(payload.length, 0, 3)
  header[3] = type
  header[4] = flags
  header.writeUInt32BE(streamId, 5)
  return Buffer.concat([header, payload])
}

function encodeSetting (id, value) {
  const setting = Buffer.alloc(6)
  setting.writeUInt16BE(id)
  setting.writeUInt32BE(value, 2)
  return setting
}

function encodeUInt32 (value) {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

/** Encodes header fields of less than 127 bytes with HPACK, without its tables. */
const encodeHeaders = headers => Buffer.concat(Object.entries(headers).map(([name, value]) =>
  Buffer.from(`\0${String.fromCharCode(name.length)}${name}${String.fromCharCode(value.length)}${value}`, 'latin1')))

/**
 * An HTTP/2 connection without TLS. It reads frames from a bare socket, so that 100,000 streams cost little. It does not decode
 * response headers, and its windows are so large that they are never used up.
 */
export class Http2Connection {
  #socket
  #load
  #streams = []
  /** The start of a frame that the last chunk cut off. */
  #remainder
  #isEndExpected = false

  constructor (load, port) {
    this.#load = load
    this.#socket = connect({ port, host: '127.0.0.1', noDelay: true, onread: { buffer: sharedBuffer, callback: size => this.#read(size) } })
    this.#socket.write(Buffer.concat([
      PREFACE,
      frame(SETTINGS, 0, 0, encodeSetting(INITIAL_WINDOW_SIZE, MAX_WINDOW_SIZE)),
      frame(WINDOW_UPDATE, 0, 0, encodeUInt32(MAX_WINDOW_SIZE - DEFAULT_WINDOW_SIZE))
    ]))
    this.#socket.on('error', error => { this.#handleEnd(error) })
    this.#socket.on('close', () => { this.#handleEnd(new Error('The server closed the connection')) })
  }

  get streamCount () {
    return this.#streams.length
  }

  /** Sends the request that opens the stream, and passes what the server sends on it to `stream.receive`. */
  add (stream, headers) {
    // The streams of clients have the ids 1, 3, 5 and so on.
    const id = this.#streams.push(stream) * 2 - 1
    this.#socket.write(frame(HEADERS, END_HEADERS | END_STREAM, id, encodeHeaders(headers)))
  }

  destroy () {
    this.#isEndExpected = true
    this.#socket.resetAndDestroy()
  }

  #handleEnd (cause) {
    if (!this.#isEndExpected) this.#load.fail(new Error('An HTTP/2 connection failed', { cause }))
  }

  #read (size) {
    const chunk = sharedBuffer.subarray(0, size)
    this.#load.bytes += size
    const bytes = this.#remainder === undefined ? chunk : Buffer.concat([this.#remainder, chunk])
    this.#remainder = undefined
    let at = 0
    while (bytes.length - at >= HEADER_LENGTH) {
      const end = at + HEADER_LENGTH + bytes.readUIntBE(at, 3)
      if (end > bytes.length) break
      this.#handleFrame(bytes[at + 3], bytes[at + 4], bytes.readUInt32BE(at + 5), bytes.subarray(at + HEADER_LENGTH, end))
      at = end
    }
    if (at < bytes.length) this.#remainder = Buffer.from(bytes.subarray(at))
    return true
  }

  #handleFrame (type, flags, id, payload) {
    if (type === DATA && (flags & END_STREAM) === 0) this.#streams[(id - 1) / 2].receive(payload)
    else if ((type === SETTINGS || type === PING) && (flags & ACK) === 0) this.#socket.write(frame(type, ACK, 0, type === PING ? payload : undefined))
    else if (!CONNECTION_TYPES.has(type) && !(type === HEADERS && (flags & END_STREAM) === 0)) this.#load.fail(new Error(`Unexpected frame of type ${type} on stream ${id}`))
  }
}

/** The stream of one client in an HTTP/2 connection, with the interface of ClientStream. */
export class Http2Stream {
  sessionId
  /** The reconnect delay from the server's `retry` field, in milliseconds. */
  retry
  /** The event id of the welcome, from which a client resumes if it has received no event since. */
  welcomeId
  /** Resolves when the welcome has arrived. */
  opened
  #load
  #connection
  #counter = new EventCounter()
  #resolveOpened
  /** The bytes before the welcome is complete, as text. */
  #openingText = ''

  constructor (load, connection, headers = []) {
    this.#load = load
    this.#connection = connection
    this.opened = new Promise(resolve => { this.#resolveOpened = resolve })
    const fields = headers.map(header => header.split(': ')).map(([name, value]) => [name.toLowerCase(), value])
    connection.add(this, { ':method': 'GET', ':scheme': 'http', ':authority': 'bench', ':path': '/downward', accept: 'text/event-stream', ...Object.fromEntries(fields) })
  }

  /** The number that the next event must have. */
  get next () {
    return this.#counter.next
  }

  receive (chunk) {
    if (this.sessionId === undefined) this.#receiveWelcome(chunk)
    else if (this.#receiveEvents(chunk) === 0) this.#load.countHeartbeat()
  }

  /** Destroys the connection, with all of its streams. */
  destroy () {
    this.#connection.destroy()
  }

  #receiveWelcome (chunk) {
    this.#openingText += chunk.latin1Slice()
    const match = this.#load.protocol.welcome.exec(this.#openingText)
    if (match === null) return
    this.sessionId = match[1]
    this.retry = Number(/retry: (\d+)/.exec(this.#openingText)[1])
    this.welcomeId = /\nid: (.+)/.exec(this.#openingText)[1]
    this.#receiveEvents(Buffer.from(this.#openingText.slice(match.index), 'latin1'))
    this.#openingText = undefined
    this.#resolveOpened()
  }

  #receiveEvents (chunk) {
    try {
      const first = this.next
      const count = this.#counter.count(chunk)
      if (count > 0) this.#load.countEvents(first, count)
      return count
    } catch (error) {
      this.#load.fail(error)
      return 0
    }
  }
}
