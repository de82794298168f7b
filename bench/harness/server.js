// The server's process: one subject, driven and asked over IPC, so that what is measured is its own CPU and memory.
import { writeFileSync } from 'node:fs'
import { Session } from 'node:inspector/promises'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { payload } from './payload.js'

const [,, name, profileTo] = process.argv
const profiler = new Session()
const turns = monitorEventLoopDelay()
let served
let before

const cpu = () => served.cpu?.() ?? process.cpuUsage()

const commands = {
  async start (options) {
    const { start } = await import(`../subjects/${name}.js`)
    served = await start(options)
    const { port, dialect, ids = false, heartbeats = false } = served
    return { port, dialect, ids, heartbeats }
  },
  /** Broadcasts events in one turn of the event loop. */
  tick (first, count, size) {
    for (let n = first; n < first + count; n++) served.broadcast(payload(n, size))
  },
  /** The same to each session by itself. */
  each (first, count, size) {
    for (let n = first; n < first + count; n++) served.each(payload(n, size))
  },
  /** Whatever else a subject can do. */
  call: (method, ...args) => served[method](...args),
  async begin () {
    global.gc()
    if (profileTo !== undefined) {
      profiler.connect()
      await profiler.post('Profiler.enable')
      await profiler.post('Profiler.start')
    }
    turns.reset()
    turns.enable()
    before = cpu()
  },
  /** Milliseconds for which the event loop did nothing else, at most, since `begin`. */
  longestTurn: () => turns.max / 1e6,
  /** Microseconds of CPU since `begin`. */
  async end () {
    const { user, system } = cpu()
    if (profileTo !== undefined) {
      const { profile } = await profiler.post('Profiler.stop')
      profiler.disconnect()
      writeFileSync(profileTo, JSON.stringify(profile))
    }
    return user - before.user + system - before.system
  },
  memory () {
    global.gc()
    global.gc()
    const { rss, heapUsed } = process.memoryUsage()
    return { rss, heap: heapUsed }
  },
  /** From now on notes the highest rss, which the next call tells. */
  peak: () => {
    const highest = peak
    peak = process.memoryUsage.rss()
    watch ??= setInterval(() => { peak = Math.max(peak, process.memoryUsage.rss()) }, 10)
    return highest
  }
}

let peak = 0
let watch

process.on('message', async ([id, command, args]) => {
  try {
    const result = await commands[command](...args)
    if (id !== 0) process.send([id, null, result])
  } catch (error) {
    process.send([id, String(error.stack)])
  }
})
process.on('disconnect', () => {
  served?.stop?.()
  process.exit()
})
