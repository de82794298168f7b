import { HttpConnection } from './http-connection.js'
import { now } from './latency.js'
import { createPayload } from './payload.js'

/** Like the package's client. */
const MAX_BATCH_MESSAGES = 64
/** Milliseconds after which messages that an overloaded server has not handled are repeated. */
const RETRY_DELAY = 1000

const isOverloaded = status => status === 429 || status === 503

/**
 * A client that sends messages without waiting for the replies to the messages before. Over WebSocket, it sends each at
 * once. With POST, it works like the package's client: it sends one request at a time, the messages that are sent meanwhile
 * are one batch in the next request, and messages that the server could not handle are repeated.
 */
export class MessageClient {
  /** How many messages were sent more than once. */
  repeatCount = 0
  #load
  #stream
  #connection
  /** The number of messages in the current request. */
  #postedCount = 0
  /** The messages without a reply, in their order, which is also that of the replies. */
  #pending = []
  #n = 0

  /** POSTs are sent to `node`, which need not be the node of the stream. */
  constructor (load, node, stream) {
    this.#load = load
    this.#stream = stream
    if (load.protocol.encodeRequest === undefined) {
      this.#connection = new HttpConnection(node.port, response => { this.#receiveBatch(response) }, error => { this.#handleError(error) })
    } else {
      stream.onEvents = count => { for (const message of this.#pending.splice(0, count)) settle(message) }
    }
  }

  /** Sends the next message. Calls `onReply` with the milliseconds until its reply. */
  send (onReply) {
    const data = createPayload(++this.#n)
    this.#pending.push({ data, sentAt: now(), onReply })
    if (this.#connection === undefined) this.#stream.send(this.#load.protocol.encodeRequest(data.n, JSON.stringify(data)))
    else if (this.#postedCount === 0) this.#postBatch()
  }

  destroy () {
    this.#connection?.destroy()
  }

  #postBatch () {
    const lines = this.#pending.slice(0, MAX_BATCH_MESSAGES).map(({ data }) => JSON.stringify({ event: 'request', data, id: String(data.n) }))
    this.#postedCount = lines.length
    if (lines.length > 0) this.#connection.post('/upward', lines.join('\n'), { sessionId: this.#stream.sessionId, contentType: 'application/x-ndjson' })
  }

  #receiveBatch (response) {
    const results = JSON.parse(response.slice(response.indexOf('\r\n\r\n') + 4))
    const batch = this.#pending.splice(0, results.length)
    const unhandled = batch.filter((_message, i) => isOverloaded(results[i].status))
    this.#pending.unshift(...unhandled)
    for (const [i, message] of batch.entries()) {
      const { status, body } = results[i]
      if (isOverloaded(status)) continue
      if (status !== 200 || body.n !== message.data.n) this.#load.fail(new Error(`Wrong reply to message ${message.data.n}: ${JSON.stringify(results[i])}`))
      settle(message)
    }
    if (unhandled.length === 0) this.#postBatch()
    else this.#repeatLater(unhandled.length)
  }

  #handleError (error) {
    if (isOverloaded(error.status)) this.#repeatLater(this.#postedCount)
    else this.#load.fail(error)
  }

  #repeatLater (count) {
    this.repeatCount += count
    setTimeout(() => { this.#postBatch() }, RETRY_DELAY)
  }
}

function settle ({ sentAt, onReply }) {
  onReply(now() - sentAt)
}
