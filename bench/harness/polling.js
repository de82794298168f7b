import { Poster } from './poster.js'

const PATH = '/socket.io/?EIO=4&transport=polling'

/** As a Stream, of Socket.IO over plain HTTP: one request waits for what comes down, others take up what is sent. */
export class PollingStream {
  sessionId
  next = 1
  onEvents
  #load
  #down
  #up
  #path = PATH
  #unsent = []
  #isSending = false
  #opening

  constructor (load, server) {
    this.#load = load
    const failed = error => {
      this.#opening.reject(error)
      load.fail(error)
    }
    this.opened = new Promise((resolve, reject) => {
      this.#opening = { resolve, reject }
    })
    this.#down = new Poster(server, answer => { this.#hear(answer) }, failed)
    this.#up = new Poster(server, () => { this.#sendNext() }, failed)
    this.#down.get(this.#path)
  }

  send (packet) {
    this.#unsent.push(packet)
    if (!this.#isSending) this.#sendNext()
  }

  destroy () {
    this.#down.destroy()
    this.#up.destroy()
  }

  #sendNext () {
    const packet = this.#unsent.shift()
    this.#isSending = packet !== undefined
    if (this.#isSending) this.#up.post(this.#path, '', packet)
  }

  #hear (answer) {
    for (const packet of answer.slice(answer.indexOf('\r\n\r\n') + 4).split('\x1e')) this.#take(packet)
    this.#down.get(this.#path)
  }

  #take (packet) {
    if (packet.startsWith('0')) {
      this.#path += `&sid=${JSON.parse(packet.slice(1)).sid}`
      this.send('40')
    } else if (packet === '2') {
      this.send('3')
    } else if (packet.startsWith('42["welcome",')) {
      this.sessionId = JSON.parse(packet.slice(2))[1].sessionId
      this.#opening.resolve(this)
    } else if (packet.startsWith('4') && !packet.startsWith('40')) {
      const { n } = JSON.parse(packet.slice(packet.indexOf('['))).at(-1)
      if (n !== this.next++) this.#load.fail(new Error(`Event ${n} came where ${this.next - 1} was due`))
      this.#load.add(1)
      this.onEvents?.(1)
    }
  }
}
