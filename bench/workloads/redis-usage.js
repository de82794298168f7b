import { scaled } from '../harness/quick.js'
import { RequestClient } from '../harness/request-client.js'

const WARM_UP = 100
const SESSIONS = scaled(2000)
const EVENTS = 50
const EVENT_SIZE = 128
const MESSAGES = 10

export default {
  name: 'redis-usage',
  seconds: 15,
  title: `memory and scripts of Redis for ${SESSIONS.toLocaleString('en')} sessions, ${EVENTS} events and ${MESSAGES} messages each`,
  nodes: 1,
  subjects: ['ours'],
  options: { keepSessions: true },
  measures: {
    sessionBytes: { label: 'bytes per session' },
    eventBytes: { label: `bytes per event of ${EVENT_SIZE}` },
    responseBytes: { label: 'bytes per stored response' },
    scriptsPerOpen: { label: 'scripts per open' },
    scriptsPerSend: { label: 'scripts per send' },
    scriptsPerPost: { label: 'scripts per POST' }
  },
  async run ({ server: cluster, load }) {
    const { redis } = cluster
    const readUsage = async () => ({ memory: await redis.memory(), scripts: await redis.scripts() })
    await load.open(WARM_UP)
    const atStart = await readUsage()
    const sessions = await load.open(SESSIONS)
    const afterOpens = await readUsage()
    const receivers = load.streams.length
    for (let n = 1; n <= EVENTS; n++) {
      const expected = load.eventCount + receivers
      await cluster.execute('sendToEach', n, 1, EVENT_SIZE)
      await load.waitUntil(() => load.eventCount >= expected, 'an event for each session')
    }
    const afterSends = await readUsage()
    const clients = sessions.map(stream => new RequestClient(load, cluster, stream, { withKeys: true }))
    await load.runRoundTrips(clients, MESSAGES)
    const afterPosts = await readUsage()
    for (const client of clients) client.destroy()
    return {
      sessionBytes: (afterOpens.memory - atStart.memory) / SESSIONS,
      eventBytes: (afterSends.memory - afterOpens.memory) / (receivers * EVENTS),
      responseBytes: (afterPosts.memory - afterSends.memory) / (SESSIONS * MESSAGES),
      scriptsPerOpen: (afterOpens.scripts - atStart.scripts) / SESSIONS,
      scriptsPerSend: (afterSends.scripts - afterOpens.scripts) / (receivers * EVENTS),
      scriptsPerPost: (afterPosts.scripts - afterSends.scripts) / (SESSIONS * MESSAGES)
    }
  }
}
