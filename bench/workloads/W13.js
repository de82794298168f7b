import { AskClient } from '../harness/ask.js'
import { roundTrips } from '../harness/trips.js'

const SESSIONS = 2000
const ENTRIES = 50
const MESSAGES = 10

export default [{
  name: 'W13',
  title: `what ${SESSIONS} sessions take of Redis, and how often it is asked`,
  nodes: 1,
  subjects: ['ours'],
  options: { remember: true },
  measures: {
    session: { label: 'bytes a session' },
    entry: { label: 'bytes an event of 128' },
    key: { label: 'bytes an answer kept' },
    opens: { label: 'scripts an open' },
    sends: { label: 'a send' },
    posts: { label: 'a POST' }
  },
  async run ({ server: cluster, load }) {
    const { redis } = cluster
    const look = async () => ({ memory: await redis.memory(), scripts: await redis.scripts() })
    await load.open(100)
    const before = await look()
    await load.open(SESSIONS)
    const opened = await look()
    const all = load.streams.length
    for (let n = 1; n <= ENTRIES; n++) {
      const due = load.received + all
      await cluster.nodes[0].ask('each', n, 1, 128)
      await load.until(() => load.received >= due, 'an event for each')
    }
    const sent = await look()
    const clients = load.streams.slice(-SESSIONS).map(stream => new AskClient(load, cluster, stream, { keys: true }))
    await roundTrips(load, clients, MESSAGES)
    const posted = await look()
    for (const client of clients) client.destroy()
    return {
      session: (opened.memory - before.memory) / SESSIONS,
      entry: (sent.memory - opened.memory) / (all * ENTRIES),
      key: (posted.memory - sent.memory) / (SESSIONS * MESSAGES),
      opens: (opened.scripts - before.scripts) / SESSIONS,
      sends: (sent.scripts - opened.scripts) / (all * ENTRIES),
      posts: (posted.scripts - sent.scripts) / (SESSIONS * MESSAGES)
    }
  }
}]
