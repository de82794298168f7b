import { HttpConnection } from './http-connection.js'
import { createPayload } from './payload.js'

/** A client that sends a message and waits for its reply: the response to a POST, or an acknowledgement of Socket.IO. */
export class RequestClient {
  #send
  #connection
  #onDone
  #n = 0

  /** POSTs are sent to `node`, which need not be the node of the stream. `withKeys` gives each an idempotency key. */
  constructor (load, node, stream, { withKeys = false } = {}) {
    const { encodeRequest } = load.protocol
    if (encodeRequest !== undefined) {
      stream.onEvents = () => { this.#onDone() }
      this.#send = json => { stream.send(encodeRequest(this.#n, json)) }
    } else {
      this.#connection = new HttpConnection(node.port, response => {
        if (!response.includes(`{"n":${this.#n},`)) load.fail(new Error(`Wrong response to request ${this.#n}: ${response}`))
        this.#onDone()
      }, error => { load.fail(error) })
      this.#send = json => {
        this.#connection.post('/upward/request', json, { sessionId: stream.sessionId, idempotencyKey: withKeys ? `key-${this.#n}` : undefined })
      }
    }
  }

  /** Sends the next message. Calls `onDone` when the reply has arrived. */
  roundTrip (onDone) {
    this.#onDone = onDone
    this.#send(JSON.stringify(createPayload(++this.#n)))
  }

  destroy () {
    this.#connection?.destroy()
  }
}
