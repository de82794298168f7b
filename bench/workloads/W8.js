import { execSync } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'

const CHURNED = 100_000
const WARM_UP = 5000
const AT_ONCE = 100
// A client's address has no more ports than some 28,000.
const LIMIT = Math.min(Number(execSync('ulimit -n')) || Infinity, 27_000)
const SESSIONS = Math.floor(LIMIT * 0.9 / 1000) * 1000

/** Opens sessions and leaves them at once; waits until the server has none. */
async function churn (load, server, count) {
  let begun = 0
  const one = async () => {
    while (begun++ < count) {
      const stream = load.stream()
      await stream.opened
      stream.destroy()
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, one))
  await empty(server)
}

async function empty (server) {
  while (await server.ask('call', 'size') > 0) await sleep(100)
}

export default [{
  name: 'W8',
  title: `${SESSIONS} idle sessions in one process, then 100,000 opened and left`,
  subjects: ['ours', 'raw'],
  // By default a session waits two minutes for a client that has left, and its memory with it.
  options: { resumeTimeout: 1000 },
  measures: {
    heap: { label: 'heap, bytes a session' },
    rss: { label: 'rss, bytes a session' },
    heapAfter: { label: 'heap after churn, to before' },
    rssAfter: { label: 'rss after churn, to before' }
  },
  goals: [
    { what: 'heap a session more than raw, bytes', value: result => result.median('ours', 'heap') - result.median('raw', 'heap'), atMost: 1024 },
    { what: 'rss a session more than raw, bytes', value: result => result.median('ours', 'rss') - result.median('raw', 'rss'), atMost: 1024 },
    { what: 'heap after churn, to before', value: result => result.median('ours', 'heapAfter'), atMost: 1.05 }
  ],
  async run ({ server, load }) {
    await churn(load, server, WARM_UP)
    const before = await server.ask('memory')
    await load.open(SESSIONS)
    const full = await server.ask('memory')
    load.close()
    await empty(server)
    await churn(load, server, CHURNED)
    const after = await server.ask('memory')
    return {
      heap: (full.heap - before.heap) / SESSIONS,
      rss: (full.rss - before.rss) / SESSIONS,
      heapAfter: after.heap / before.heap,
      rssAfter: after.rss / before.rss
    }
  }
}]
