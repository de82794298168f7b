import { Poster } from './poster.js'
import { payload } from './payload.js'

/** A client that asks and waits for the answer: that to its POST, or what Socket.IO calls an acknowledgement. */
export class AskClient {
  #send
  #poster
  #answered = () => { this.#done() }
  #done
  #n = 0

  /** POSTs go to a node of their own; what has no POSTs asks over its stream. `keys` gives each an idempotency key. */
  constructor (load, node, stream, { keys = false } = {}) {
    const { ask } = load.dialect
    if (ask !== undefined) {
      stream.onEvents = this.#answered
      this.#send = json => { stream.send(ask(this.#n, json)) }
    } else {
      this.#poster = new Poster(node, answer => {
        if (!answer.includes(`{"n":${this.#n},`)) load.fail(new Error(`Question ${this.#n} was answered ${answer}`))
        this.#answered()
      }, error => { load.fail(error) })
      const session = `X-Session-ID: ${stream.sessionId}\r\n`
      this.#send = json => { this.#poster.post('/upward/ask', keys ? `${session}Idempotency-Key: key-${this.#n}\r\n` : session, json) }
    }
  }

  /** Calls back when the answer has come. */
  trip (done) {
    this.#done = done
    this.#send(JSON.stringify(payload(++this.#n)))
  }

  destroy () {
    this.#poster?.destroy()
  }
}
