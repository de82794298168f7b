import { connect } from 'node:net'

/** A keep-alive connection of one client, with one request at a time. It is a bare socket, so that thousands cost little. */
export class HttpConnection {
  #socket
  #received = ''

  /** `onResponse` receives each successful response as text. `onError` is called for any other response, with its `status`, and when the connection fails. */
  constructor (port, onResponse, onError) {
    this.#socket = connect({ port, host: '127.0.0.1', noDelay: true })
    this.#socket.setEncoding('latin1')
    this.#socket.on('data', text => {
      this.#received += text
      if (!isComplete(this.#received)) return
      const response = this.#received
      this.#received = ''
      const status = Number(response.split(' ', 2)[1])
      if (status >= 200 && status <= 202) onResponse(response)
      else onError(Object.assign(new Error(`Unexpected response: ${response}`), { status }))
    })
    this.#socket.on('error', onError)
  }

  get (path) {
    this.#socket.write(`GET ${path} HTTP/1.1\r\nHost: bench\r\n\r\n`)
  }

  post (path, body, { sessionId, idempotencyKey, contentType = 'application/json' } = {}) {
    let headers = `Content-Type: ${contentType}\r\nContent-Length: ${body.length}\r\n`
    if (sessionId !== undefined) headers += `X-Session-ID: ${sessionId}\r\n`
    if (idempotencyKey !== undefined) headers += `Idempotency-Key: ${idempotencyKey}\r\n`
    this.#socket.write(`POST ${path} HTTP/1.1\r\nHost: bench\r\n${headers}\r\n${body}`)
  }

  destroy () {
    this.#socket.resetAndDestroy()
  }
}

function isComplete (response) {
  const bodyStart = response.indexOf('\r\n\r\n') + 4
  if (bodyStart === 3) return false
  const [, length] = /content-length: (\d+)/i.exec(response) ?? []
  return length === undefined ? response.endsWith('0\r\n\r\n') : response.length === bodyStart + Number(length)
}
