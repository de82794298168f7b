import { measurePerOperation } from '../harness/measure.js'
import { scaled } from '../harness/quick.js'

const SESSIONS = 500
const WARM_UP = scaled(50)
const TOKENS = scaled(300)

async function streamTokens (load, server, first, count) {
  const expected = load.eventCount + SESSIONS * count
  await server.execute('call', 'streamTokens', first, count)
  await load.waitUntil(() => load.eventCount === expected, 'the tokens')
}

export default {
  name: 'tokens',
  seconds: 8,
  title: `small tokens from an async iterator for each of ${SESSIONS} sessions, one per tick of the event loop`,
  subjects: ['ours', '@fastify/sse'],
  base: '@fastify/sse',
  options: { keepSessions: true },
  measures: {
    cpu: { label: 'server CPU, µs per token', isRelative: true },
    rate: { label: 'tokens/s' }
  },
  goals: [{ measure: 'cpu', relativeTo: '@fastify/sse', atMost: 0.6 }],
  async run ({ server, load }) {
    await load.open(SESSIONS)
    await streamTokens(load, server, 1, WARM_UP)
    const measured = await measurePerOperation(server, SESSIONS * TOKENS, () => streamTokens(load, server, WARM_UP + 1, TOKENS))
    load.assertComplete()
    return measured
  }
}
