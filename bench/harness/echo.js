import { payload } from './payload.js'
import { Poster } from './poster.js'

/** A client that sends messages and waits for their echoes. With a WebSocket there is no answer besides the echo. */
export class EchoClient {
  #stream
  #send
  #poster
  #halves
  #left = 0
  #n = 0
  #done

  /** `keys` gives each POST an idempotency key. */
  constructor (load, server, stream, { keys = false } = {}) {
    const { up } = load.dialect
    this.#stream = stream
    this.#halves = up === undefined ? 2 : 1
    const half = () => { if (--this.#left === 0) this.#done() }
    stream.onEvents = half
    if (up !== undefined) {
      this.#send = json => { stream.send(up(json)) }
    } else {
      this.#poster = new Poster(server, half, error => { load.fail(error) })
      const session = `X-Session-ID: ${stream.sessionId}\r\n`
      this.#send = json => { this.#poster.post('/upward', keys ? `${session}Idempotency-Key: key-${this.#n}\r\n` : session, json) }
    }
  }

  /** Calls back when the echo has come, and the answer to the POST. */
  trip (done) {
    this.#done = done
    this.#left = this.#halves
    this.#send(JSON.stringify(payload(++this.#n)))
  }

  destroy () {
    this.#poster?.destroy()
    this.#stream.destroy()
  }
}
