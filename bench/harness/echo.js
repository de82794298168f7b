import { payload } from './payload.js'
import { Poster } from './poster.js'

/** A client that sends messages and waits until they are heard: as echoes on its own stream, or on another's. With a WebSocket there is no answer besides. */
export class EchoClient {
  #stream
  #send
  #poster
  #halves
  #left = 0
  #n = 0
  #to
  #done

  /** `keys` gives each POST an idempotency key. With `hearer`, the stream of another client, messages are for that. */
  constructor (load, server, stream, { keys = false, hearer } = {}) {
    const { up } = load.dialect
    const [event, path] = hearer === undefined ? ['message', '/upward'] : ['tell', '/upward/tell']
    this.#stream = stream
    this.#to = hearer?.sessionId
    this.#halves = up === undefined ? 2 : 1
    const half = () => { if (--this.#left === 0) this.#done() }
    const heard = hearer ?? stream
    heard.onEvents = half
    if (up !== undefined) {
      this.#send = json => { stream.send(up(json, event)) }
    } else {
      this.#poster = new Poster(server, half, error => { load.fail(error) })
      const session = `X-Session-ID: ${stream.sessionId}\r\n`
      this.#send = json => { this.#poster.post(path, keys ? `${session}Idempotency-Key: key-${this.#n}\r\n` : session, json) }
    }
  }

  /** Calls back when the echo has come, and the answer to the POST. */
  trip (done) {
    this.#done = done
    this.#left = this.#halves
    this.#send(JSON.stringify({ to: this.#to, ...payload(++this.#n) }))
  }

  destroy () {
    this.#poster?.destroy()
    this.#stream.destroy()
  }
}
