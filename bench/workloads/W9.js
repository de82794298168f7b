const CLIENTS = 500
const WARM_UP = 50
const TOKENS = 300

async function stream (load, server, first, count) {
  const due = load.received + CLIENTS * count
  await server.ask('call', 'stream', first, count)
  await load.until(() => load.received === due, 'the tokens')
}

export default [{
  name: 'W9',
  title: 'small tokens from an async iterator to each of 500 clients, one a turn of the event loop',
  subjects: ['ours', '@fastify/sse'],
  base: '@fastify/sse',
  options: { remember: true },
  measures: {
    cpu: { label: 'server CPU, µs a token', relative: true },
    rate: { label: 'tokens/s' }
  },
  goals: [{ what: 'CPU to @fastify/sse', value: result => result.ratio('ours', 'cpu', '@fastify/sse'), atMost: 0.6 }],
  async run ({ server, load }) {
    await load.open(CLIENTS)
    await stream(load, server, 1, WARM_UP)
    await server.ask('begin')
    const begun = performance.now()
    await stream(load, server, WARM_UP + 1, TOKENS)
    const seconds = (performance.now() - begun) / 1000
    const cpu = await server.ask('end')
    load.verify()
    return { cpu: cpu / (CLIENTS * TOKENS), rate: CLIENTS * TOKENS / seconds }
  }
}]
