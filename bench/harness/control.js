import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'

const SERVER = fileURLToPath(new URL('server.js', import.meta.url))

/** Puts this process on the second core, where there are two and `taskset` is there; answers whether. */
export function pin () {
  try {
    if (availableParallelism() < 2) return false
    execFileSync('taskset', ['-a', '-c', '-p', '1', String(process.pid)])
    return true
  } catch {
    return false
  }
}

/** A subject's server, in a process of its own on the first core. */
export class Server {
  #child
  #asked = new Map()
  #count = 0

  static async start (subject, { pinned, profileTo, ...options } = {}) {
    const server = new Server(subject, pinned, profileTo)
    return Object.assign(server, await server.ask('start', options))
  }

  constructor (subject, pinned, profileTo) {
    const command = [process.execPath, '--expose-gc', SERVER, subject]
    if (profileTo !== undefined) command.push(profileTo)
    if (pinned) command.unshift('taskset', '-c', '0')
    this.#child = spawn(command[0], command.slice(1), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    this.#child.on('message', ([id, failure, result]) => {
      if (id === 0) throw new Error(failure)
      const { resolve, reject } = this.#asked.get(id)
      this.#asked.delete(id)
      if (failure === null) resolve(result)
      else reject(new Error(failure))
    })
    this.#child.on('exit', code => {
      for (const { reject } of this.#asked.values()) reject(new Error(`${subject} has ended with ${code}`))
    })
  }

  /** Has the server do something and waits for its answer. */
  ask (command, ...args) {
    return new Promise((resolve, reject) => {
      this.#asked.set(++this.#count, { resolve, reject })
      this.#child.send([this.#count, command, args])
    })
  }

  /** Has the server do something whose outcome shows elsewhere. */
  tell (command, ...args) {
    this.#child.send([0, command, args])
  }

  async stop () {
    this.#child.disconnect()
    if (this.#child.exitCode === null) await once(this.#child, 'exit')
  }
}
