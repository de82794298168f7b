import { setTimeout as sleep } from 'node:timers/promises'
import { EchoClient } from '../harness/echo.js'
import { Load } from '../harness/load.js'

const DROPPED = 10_000
const LIVE = 20
const MISSED = 100
const PAUSE = 10

/** Opens a client's next stream after the wait that the server has told it, as an EventSource does. */
async function comeBack (load, { sessionId, retry, lastId }) {
  await sleep(retry)
  const stream = load.stream({ headers: [`Last-Event-ID: ${lastId}`] })
  load.streams.push(stream)
  await stream.opened
  if (stream.sessionId !== sessionId) throw new Error('A session was not resumed')
}

/** Sessions that have lost nothing and go on making round trips; answers how long the longest took. */
async function watch (server, whileIt) {
  const load = new Load(server)
  const clients = (await load.open(LIVE)).map(stream => new EchoClient(load, server, stream))
  const over = new AbortController()
  let longest = 0
  const trips = clients.map(async client => {
    while (!over.signal.aborted) {
      const begun = performance.now()
      await new Promise(resolve => { client.trip(resolve) })
      longest = Math.max(longest, performance.now() - begun)
      await sleep(PAUSE)
    }
  })
  await whileIt()
  over.abort()
  await Promise.all(trips)
  await load.until(() => true)
  for (const client of clients) client.destroy()
  return longest
}

export default [{
  name: 'W6',
  title: '10,000 sessions dropped at once, 100 missed messages each: half broadcasts, half their own',
  subjects: ['ours'],
  options: { remember: true },
  measures: {
    seconds: { label: 'until all have everything, s' },
    longest: { label: 'longest round trip of live sessions, ms' },
    turn: { label: "longest turn of the server's event loop, ms" },
    cpu: { label: 'server CPU, µs a session' }
  },
  goals: [
    { what: 'until all have everything, s', value: result => result.median('ours', 'seconds'), atMost: 10 },
    { what: 'longest round trip of live sessions, ms', value: result => result.median('ours', 'longest'), atMost: 200 }
  ],
  async run ({ server, load }) {
    const dropped = (await load.open(DROPPED)).map(({ sessionId, retry, lastId }) => ({ sessionId, retry, lastId }))
    load.close()
    while (await server.ask('call', 'streams') > 0) await sleep(PAUSE)
    for (let n = 1; n <= MISSED; n++) await server.ask(n % 2 === 1 ? 'tick' : 'each', n, 1, 128)
    let seconds
    let cpu
    let turn
    await server.ask('begin')
    const longest = await watch(server, async () => {
      const begun = performance.now()
      await Promise.all(dropped.map(client => comeBack(load, client)))
      await load.until(() => load.received === DROPPED * MISSED, 'the replay')
      seconds = (performance.now() - begun) / 1000
      cpu = await server.ask('end')
      turn = await server.ask('longestTurn')
    })
    if (load.streams.some(({ next }) => next !== MISSED + 1)) throw new Error('A session has not got what it missed')
    return { seconds, longest, turn, cpu: cpu / DROPPED }
  }
}]
