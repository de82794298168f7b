// The entry of a server process. It runs one subject and receives commands over IPC, so that only the CPU and memory of the
// server are measured.
import { writeFileSync } from 'node:fs'
import { Session } from 'node:inspector/promises'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { now } from './latency.js'
import { createPayload } from './payload.js'

const [,, subjectName, profileTo] = process.argv
const profiler = new Session()
let subject
let cpuAtStart
let eventLoopDelay
let peakRss = 0
let peakTimer
/** By the number of a broadcast, the time in milliseconds at which it was sent. */
let sendTimes = []

const cpuUsage = () => subject.cpu?.() ?? process.cpuUsage()

function broadcast (n, size) {
  const data = createPayload(n, size)
  sendTimes[n] = now()
  subject.broadcast(data)
}

const commands = {
  async start (options) {
    const { start } = await import(`../subjects/${subjectName}.js`)
    subject = await start(options)
    const { port, protocol, hasEventIds = false, hasHeartbeats = false } = subject
    return { port, protocol, hasEventIds, hasHeartbeats }
  },
  /** Broadcasts numbered events in one tick of the event loop. */
  broadcast (first, count, size) {
    for (let n = first; n < first + count; n++) broadcast(n, size)
  },
  /** Broadcasts numbered events, one every `interval` milliseconds. */
  async broadcastPaced (first, count, interval) {
    const start = now()
    for (let i = 0; i < count; i++) {
      await sleep(start + i * interval - now())
      broadcast(first + i)
    }
  },
  takeSendTimes () {
    const taken = sendTimes
    sendTimes = []
    return taken
  },
  /** Sends numbered events to each session separately. */
  sendToEach (first, count, size) {
    for (let n = first; n < first + count; n++) subject.sendToEach(createPayload(n, size))
  },
  /** Calls any other method of the subject. */
  call: (method, ...args) => subject[method](...args),
  async startMeasurement ({ pauseResolution: resolution = 10 }) {
    global.gc()
    if (profileTo !== undefined) {
      profiler.connect()
      await profiler.post('Profiler.enable')
      await profiler.post('Profiler.start')
    }
    eventLoopDelay = monitorEventLoopDelay({ resolution })
    eventLoopDelay.enable()
    cpuAtStart = cpuUsage()
  },
  async stopMeasurement () {
    const { user, system } = cpuUsage()
    eventLoopDelay.disable()
    if (profileTo !== undefined) {
      const { profile } = await profiler.post('Profiler.stop')
      profiler.disconnect()
      writeFileSync(profileTo, JSON.stringify(profile))
    }
    return { cpu: user - cpuAtStart.user + system - cpuAtStart.system, longestPause: eventLoopDelay.max / 1e6 }
  },
  /** Bytes in use after garbage collection. */
  memory () {
    global.gc()
    global.gc()
    const { rss, heapUsed } = process.memoryUsage()
    return { rss, heap: heapUsed }
  },
  /** Returns the highest rss since the last call, and starts to record it on the first. */
  takePeakRss () {
    const highest = peakRss
    peakRss = process.memoryUsage.rss()
    peakTimer ??= setInterval(() => { peakRss = Math.max(peakRss, process.memoryUsage.rss()) }, 10)
    return highest
  }
}

process.on('message', async ([id, command, args]) => {
  try {
    const result = await commands[command](...args)
    // A command with id 0 gets a reply only if it fails.
    if (id !== 0) process.send([id, null, result])
  } catch (error) {
    process.send([id, String(error.stack)])
  }
})
process.on('disconnect', () => {
  subject?.stop?.()
  process.exit()
})
