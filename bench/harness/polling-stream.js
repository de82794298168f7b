import { HttpConnection } from './http-connection.js'

const PATH = '/socket.io/?EIO=4&transport=polling'

/** A stream of Socket.IO over long polling, with the interface of ClientStream. One connection polls, the other sends. */
export class PollingStream {
  sessionId
  /** The number that the next event must have. */
  next = 1
  /** Called with the number of events that have just arrived. */
  onEvents
  /** Resolves when the welcome has arrived. */
  opened
  #load
  #pollConnection
  #sendConnection
  #path = PATH
  #unsent = []
  #isSending = false
  #resolveOpened

  constructor (load, { port }) {
    this.#load = load
    this.opened = new Promise((resolve, reject) => {
      const onError = error => {
        reject(error)
        load.fail(error)
      }
      this.#resolveOpened = resolve
      this.#pollConnection = new HttpConnection(port, response => { this.#receive(response) }, onError)
      this.#sendConnection = new HttpConnection(port, () => { this.#sendNext() }, onError)
    })
    this.#pollConnection.get(this.#path)
  }

  send (packet) {
    this.#unsent.push(packet)
    if (!this.#isSending) this.#sendNext()
  }

  destroy () {
    this.#pollConnection.destroy()
    this.#sendConnection.destroy()
  }

  #sendNext () {
    const packet = this.#unsent.shift()
    this.#isSending = packet !== undefined
    if (this.#isSending) this.#sendConnection.post(this.#path, packet)
  }

  #receive (response) {
    const body = response.slice(response.indexOf('\r\n\r\n') + 4)
    for (const packet of body.split('\x1e')) this.#handlePacket(packet)
    this.#pollConnection.get(this.#path)
  }

  /** Packet types of Engine.IO: 0 is open, 2 is ping, 3 is pong, 4 is a message; 40 opens the Socket.IO namespace, 42 is an event. */
  #handlePacket (packet) {
    if (packet.startsWith('0')) {
      this.#path += `&sid=${JSON.parse(packet.slice(1)).sid}`
      this.send('40')
    } else if (packet === '2') {
      this.send('3')
    } else if (packet.startsWith('42["welcome",')) {
      this.sessionId = JSON.parse(packet.slice(2))[1].sessionId
      this.#resolveOpened()
    } else if (packet.startsWith('4') && !packet.startsWith('40')) {
      const { n } = JSON.parse(packet.slice(packet.indexOf('['))).at(-1)
      if (n !== this.next++) this.#load.fail(new Error(`Received event ${n}, expected ${this.next - 1}`))
      this.#load.countEvents(n, 1)
      this.onEvents?.(1)
    }
  }
}
