import { connect } from 'node:net'

/** One client's connection for requests, kept alive: one at a time. */
export class Poster {
  #socket
  #answered
  #answer = ''

  /** `answered` is called for each answer; `failed` for one that is no success, and for a lost connection. */
  constructor ({ port }, answered, failed) {
    this.#answered = answered
    this.#socket = connect({ port, host: '127.0.0.1', noDelay: true })
    this.#socket.setEncoding('latin1')
    this.#socket.on('data', text => {
      this.#answer += text
      if (!isWhole(this.#answer)) return
      const answer = this.#answer
      this.#answer = ''
      if (/^HTTP\/1\.1 20[0-2] /.test(answer)) this.#answered(answer)
      else failed(new Error(`A request was answered ${answer}`))
    })
    this.#socket.on('error', failed)
  }

  get (path) {
    this.#socket.write(`GET ${path} HTTP/1.1\r\nHost: bench\r\n\r\n`)
  }

  /** Posts JSON; `headers` are lines that end in CR LF. */
  post (path, headers, json) {
    this.#socket.write(`POST ${path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: ${json.length}\r\n${headers}\r\n${json}`)
  }

  destroy () {
    this.#socket.resetAndDestroy()
  }
}

function isWhole (answer) {
  const end = answer.indexOf('\r\n\r\n') + 4
  if (end === 3) return false
  const [, length] = /content-length: (\d+)/i.exec(answer) ?? []
  return length === undefined ? answer.endsWith('0\r\n\r\n') : answer.length === end + Number(length)
}
