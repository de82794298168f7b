import { setTimeout as sleep } from 'node:timers/promises'
import { measure } from '../harness/measure.js'
import { isQuick, scaled } from '../harness/quick.js'
import { measureMemory, memoryMeasures } from './support/memory.js'

const WARM_UP = scaled(2000)
const SESSIONS = scaled(100_000)
const FEWER_SESSIONS = scaled(10_000)
const BROADCASTS = 5
/** Milliseconds; the default, except in a quick run. It leaves enough time to resume. */
const RESUME_TIMEOUT = isQuick ? 15_000 : 120_000
/** Milliseconds before the first session expires, from which on the expiry is measured. */
const EXPIRY_MARGIN = 2000
const POLL_INTERVAL = 500
const IDLE_TIME = 5000
/** The resolution of other workloads, 10 ms, would be too coarse for the goal. A timer of 1 ms needs some CPU, so only this workload uses it. */
const PAUSES = { pauseResolution: 1 }

/**
 * Measures work whose CPU is that of sessions: what the process needs without any, `idle` microseconds per second, is
 * subtracted. Otherwise it would be a larger share of the cost of each session if there are fewer.
 */
async function measureSessions (server, work, { idle, ...options }) {
  const { cpu, seconds, longestPause } = await measure(server, work, options)
  return { cpu: cpu - idle * seconds, seconds, longestPause }
}

/** Adds `idle` to options of `startMeasurement`, for `measureSessions`: the CPU that the server needs with these options and without sessions. */
async function measureIdle (server, options = {}) {
  const { cpu, seconds } = await measure(server, () => sleep(IDLE_TIME), options)
  return { ...options, idle: cpu / seconds }
}

/** Runs most of the code once. Otherwise its compilation would be a larger share of the cost of each session if there are fewer. */
async function warmUp (server, load) {
  const sessions = toResumable(await load.open(WARM_UP))
  await load.broadcast(BROADCASTS)
  await disconnectAll(server, load)
  await resumeAll(load, sessions)
  await server.execute('call', 'closeAll')
  load.close()
  // What the server frees now must not count as a difference of its memory later.
  await sleep(IDLE_TIME)
}

const toResumable = streams => streams.map(({ sessionId, retry, welcomeId }) => ({ sessionId, retry, welcomeId }))

async function disconnectAll (server, load) {
  load.close()
  while (await server.execute('call', 'streamCount') > 0) await sleep(POLL_INTERVAL)
}

/** Measures one heartbeat for each session, after the first, during which sessions still differ in how long they were idle. */
async function measureHeartbeats (server, load, count, options) {
  const waitForHeartbeats = async () => {
    const expected = load.heartbeatCount + count
    await load.waitUntil(() => load.heartbeatCount >= expected, 'heartbeats')
  }
  await waitForHeartbeats()
  const { cpu } = await measureSessions(server, waitForHeartbeats, options)
  return { heartbeat: cpu / count }
}

async function measureBroadcasts (server, load, count, options) {
  const { cpu, longestPause } = await measureSessions(server, () => load.broadcast(BROADCASTS), options)
  return { broadcast: cpu / count / BROADCASTS, broadcastPause: longestPause }
}

/** Each session resumes after the delay from the server, as an EventSource does, and receives the broadcasts again. */
async function resumeAll (load, sessions) {
  const expected = load.eventCount + sessions.length * BROADCASTS
  const resume = async ({ sessionId, retry, welcomeId }) => {
    await sleep(retry)
    const stream = load.openStream({ headers: [`Last-Event-ID: ${welcomeId}`] })
    load.streams.push(stream)
    await stream.opened
    if (stream.sessionId !== sessionId) throw new Error('A session was not resumed')
  }
  await Promise.all(sessions.map(resume))
  await load.waitUntil(() => load.eventCount === expected, 'the replay')
}

async function measureResume (server, load, sessions, options) {
  const { seconds, cpu, longestPause } = await measureSessions(server, () => resumeAll(load, sessions), options)
  return { resumeSeconds: seconds, resume: cpu / sessions.length, resumePause: longestPause }
}

/** Measures from shortly before the first session expires, until the last has expired. */
async function measureExpiry (server, load, count, options) {
  const start = performance.now()
  await disconnectAll(server, load)
  await sleep(RESUME_TIMEOUT - EXPIRY_MARGIN - (performance.now() - start))
  if (await server.execute('call', 'size') < count) throw new Error('Sessions expired before the measurement')
  const { cpu, longestPause } = await measureSessions(server, async () => {
    while (await server.execute('call', 'size') > 0) await sleep(POLL_INTERVAL)
  }, options)
  return { expire: cpu / count, expirePause: longestPause }
}

const costs = {
  ...memoryMeasures,
  heartbeat: { label: 'CPU, µs per heartbeat' },
  broadcast: { label: 'µs per event and session' },
  resume: { label: 'µs per resume' },
  expire: { label: 'µs per expiry' }
}

export default {
  name: 'scale',
  seconds: 210,
  maxRounds: 1,
  title: `${SESSIONS.toLocaleString('en')} sessions in one process over HTTP/2, relative to ${FEWER_SESSIONS.toLocaleString('en')}`,
  subjects: ['ours', 'ours-10000'],
  base: 'ours-10000',
  options: { http2: true, keepSessions: true, maxSessions: 2 * SESSIONS, resumeTimeout: RESUME_TIMEOUT },
  measures: {
    ...Object.fromEntries(Object.entries(costs).map(([measure, { label }]) => [measure, { label, isRelative: true }])),
    broadcastPause: { label: 'longest pause of the event loop in a broadcast, ms' },
    resumePause: { label: 'while resuming, ms' },
    expirePause: { label: 'while expiring, ms' },
    resumeSeconds: { label: 'until all have resumed, s' }
  },
  goals: [
    ...Object.keys(costs).map(measure => ({ measure, relativeTo: 'ours-10000', atMost: 1.1 })),
    { measure: 'broadcastPause', atMost: 25 },
    { measure: 'resumeSeconds', atMost: 30 }
  ],
  async run ({ server, load, subject }) {
    await warmUp(server, load)
    const idle = await measureIdle(server)
    const idleWithPauses = await measureIdle(server, PAUSES)
    const { perSession } = await measureMemory(server, load, subject === 'ours' ? SESSIONS : FEWER_SESSIONS)
    const sessions = toResumable(load.streams)
    const result = {
      ...perSession,
      ...await measureHeartbeats(server, load, sessions.length, idle),
      ...await measureBroadcasts(server, load, sessions.length, idleWithPauses)
    }
    await disconnectAll(server, load)
    Object.assign(result, await measureResume(server, load, sessions, idleWithPauses))
    return { ...result, ...await measureExpiry(server, load, sessions.length, idleWithPauses) }
  }
}
