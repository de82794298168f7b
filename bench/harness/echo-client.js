import { HttpConnection } from './http-connection.js'
import { createPayload } from './payload.js'

/**
 * A client that sends a message and waits until it arrives as an event: on its own stream (an echo), or on the stream of
 * another client. A client that sends with POST also waits for the response; a message over WebSocket has none.
 */
export class EchoClient {
  #stream
  #send
  #connection
  #arrivalsPerRoundTrip
  #arrivalsLeft = 0
  #receiverId
  #n = 0
  #onDone

  /** `withKeys` gives each POST an idempotency key. `receiver` is the stream of another client, which gets the messages instead. */
  constructor (load, server, stream, { withKeys = false, receiver } = {}) {
    const { encodeMessage } = load.protocol
    const [event, path] = receiver === undefined ? ['message', '/upward'] : ['relay', '/upward/relay']
    const onArrival = () => { if (--this.#arrivalsLeft === 0) this.#onDone() }
    this.#stream = stream
    this.#receiverId = receiver?.sessionId
    ;(receiver ?? stream).onEvents = onArrival
    if (encodeMessage !== undefined) {
      this.#arrivalsPerRoundTrip = 1
      this.#send = json => { stream.send(encodeMessage(json, event)) }
    } else {
      this.#arrivalsPerRoundTrip = 2
      this.#connection = new HttpConnection(server.port, onArrival, error => { load.fail(error) })
      this.#send = json => {
        this.#connection.post(path, json, { sessionId: stream.sessionId, idempotencyKey: withKeys ? `key-${this.#n}` : undefined })
      }
    }
  }

  /** Sends the next message. Calls `onDone` when the event has arrived, and the response if there is one. */
  roundTrip (onDone) {
    this.#onDone = onDone
    this.#arrivalsLeft = this.#arrivalsPerRoundTrip
    this.#send(JSON.stringify({ to: this.#receiverId, ...createPayload(++this.#n) }))
  }

  destroy () {
    this.#connection?.destroy()
    this.#stream.destroy()
  }
}
