import { execSync } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { scaled } from '../harness/quick.js'
import { measureMemory, memoryGoals, memoryMeasures } from './support/memory.js'

const WARM_UP = scaled(5000)
const CHURNED_SESSIONS = scaled(100_000)
const CONCURRENT_OPENS = 100
/** One address has about 28,000 ephemeral ports, and each client needs one. */
const MAX_PORTS = 27_000
const MAX_SOCKETS = Math.min(Number(execSync('ulimit -n')) || Infinity, MAX_PORTS)
const IDLE_SESSIONS = scaled(Math.floor(MAX_SOCKETS * 0.9 / 1000) * 1000)

/** Opens sessions, disconnects each at once, and waits until the server has removed them all. */
async function churn (load, server, count) {
  let started = 0
  const openOneByOne = async () => {
    while (started++ < count) {
      const stream = load.openStream()
      await stream.opened
      stream.destroy()
    }
  }
  await Promise.all(Array.from({ length: CONCURRENT_OPENS }, openOneByOne))
  await waitForNoSessions(server)
}

async function waitForNoSessions (server) {
  while (await server.execute('call', 'size') > 0) await sleep(100)
}

export default {
  name: 'churn',
  seconds: 90,
  title: `${IDLE_SESSIONS.toLocaleString('en')} idle sessions in one process, then ${CHURNED_SESSIONS.toLocaleString('en')} opened and disconnected`,
  subjects: ['ours', 'raw'],
  // By default a disconnected session expires after two minutes, and occupies memory until then.
  options: { resumeTimeout: 1000 },
  measures: {
    ...memoryMeasures,
    heapAfter: { label: 'heap after the churn, relative to before' },
    rssAfter: { label: 'rss after the churn, relative to before' }
  },
  goals: [...memoryGoals, { measure: 'heapAfter', atMost: 1.05 }],
  async run ({ server, load }) {
    await churn(load, server, WARM_UP)
    const { before, perSession } = await measureMemory(server, load, IDLE_SESSIONS)
    load.close()
    await waitForNoSessions(server)
    await churn(load, server, CHURNED_SESSIONS)
    const after = await server.execute('memory')
    return { ...perSession, heapAfter: after.heap / before.heap, rssAfter: after.rss / before.rss }
  }
}
