import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'

const ENTRY = fileURLToPath(new URL('server-entry.js', import.meta.url))
/** The id of commands that get no reply. */
const NO_REPLY = 0

/** Pins this process to the second core. Returns false if there is no second core or no `taskset`. */
export function pinToSecondCore () {
  try {
    if (availableParallelism() < 2) return false
    execFileSync('taskset', ['-a', '-c', '-p', '1', String(process.pid)])
    return true
  } catch {
    return false
  }
}

/** A subject's server in a process of its own, on the first core. Its commands are in server-entry.js. */
export class ServerProcess {
  /** What the subject reported when it started: see subjects/index.js. */
  port
  protocol
  hasEventIds
  hasHeartbeats
  #child
  #pending = new Map()
  #lastId = NO_REPLY

  static async start (subject, { isPinned, profileTo, ...options } = {}) {
    const server = new ServerProcess(subject, isPinned, profileTo)
    return Object.assign(server, await server.execute('start', options))
  }

  constructor (subject, isPinned, profileTo) {
    const command = [process.execPath, '--expose-gc', ENTRY, subject]
    if (profileTo !== undefined) command.push(profileTo)
    if (isPinned) command.unshift('taskset', '-c', '0')
    this.#child = spawn(command[0], command.slice(1), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    this.#child.on('message', ([id, failure, result]) => {
      // Nothing waits for this command, so its failure ends the benchmark.
      if (id === NO_REPLY) throw new Error(failure)
      const { resolve, reject } = this.#pending.get(id)
      this.#pending.delete(id)
      if (failure === null) resolve(result)
      else reject(new Error(failure))
    })
    this.#child.on('exit', code => {
      for (const { reject } of this.#pending.values()) reject(new Error(`The server process of ${subject} exited with code ${code}`))
    })
  }

  /** Executes a command in the server process and returns its result. */
  execute (command, ...args) {
    return new Promise((resolve, reject) => {
      this.#pending.set(++this.#lastId, { resolve, reject })
      this.#child.send([this.#lastId, command, args])
    })
  }

  /** Sends a command without waiting for its result. */
  notify (command, ...args) {
    this.#child.send([NO_REPLY, command, args])
  }

  /** `pauseResolution` is the resolution in milliseconds with which pauses of the event loop are measured; default 10. */
  startMeasurement (options = {}) {
    return this.execute('startMeasurement', options)
  }

  /** Returns what the process used since `startMeasurement`: `cpu` in µs, and the longest pause of its event loop in ms. */
  stopMeasurement () {
    return this.execute('stopMeasurement')
  }

  async stop () {
    this.#child.disconnect()
    if (this.#child.exitCode === null) await once(this.#child, 'exit')
  }
}
