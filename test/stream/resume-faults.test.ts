import t from 'tap'
import { eventSources } from '../support/event-sources.js'
import { startFaultProxy, type Fault, type FaultPlan } from '../support/fault-proxy.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { serve } from '../support/server.js'
import { follow } from './support/follower.js'

const TOTAL = 20_000
const largeLog = { entries: TOTAL, bytes: 2 ** 26 }

t.test('delivers 20,000 events of three kinds once and in order over cut, reset and half-open connections', async t => {
  const next = createRandom(chooseSeed(t))
  const randomBelow = (limit: number): number => Math.floor(next() * limit)
  const { sessions, port } = await serve(t, { retry: 1, log: largeLog, channelLog: largeLog })
  const clients = await Promise.all([...eventSources, ...eventSources].map(async ([name, open]) => {
    const plans: FaultPlan[] = []
    const proxy = await startFaultProxy(t, port, connection => {
      const fault = (['cut', 'reset', 'half-open'] satisfies Fault[])[randomBelow(3)] ?? 'cut'
      // The first connection lasts until the client has its session id. A third of the others ends in the head or in the first events.
      const plan = { fault, afterBytes: connection === 0 ? 1500 + randomBelow(5000) : next() < 1 / 3 ? randomBelow(1000) : randomBelow(15_000) }
      plans.push(plan)
      return plan
    })
    const follower = follow(open(t, `${proxy.url}/downward`), ['message', 'room', 'news'])
    const session = await sessions.find(await follower.welcomed)
    if (session === undefined) throw new Error('no session')
    await session.join('room')
    return { name, proxy, plans, follower, session }
  }))
  const room = sessions.channel('room')
  const kinds = [
    (n: number) => { for (const { session } of clients) session.send({ n }) },
    (n: number) => { room.emit('room', { n }) },
    (n: number) => { sessions.broadcast('news', { n }) }
  ]
  for (let n = 0; n < TOTAL;) {
    for (let burst = 1 + randomBelow(200); burst > 0 && n < TOTAL; burst--) kinds[randomBelow(3)]?.(++n)
    // If the sender is close to the slowest client, faults hit live delivery; if it is far ahead, they hit a replay.
    const ahead = randomBelow(1500)
    await Promise.all(clients.map(({ follower }) => follower.reached(n - ahead)))
  }
  await Promise.all(clients.map(({ follower }) => follower.reached(TOTAL)))
  for (const { name, proxy, plans, follower, session } of clients) {
    t.strictSame(follower.problems.slice(0, 5), [], `${name} received every message once and in order, and no gap`)
    t.equal(follower.numbers.length, TOTAL)
    t.ok(follower.welcomes.every(({ sessionId, resumed }, index) => sessionId === session.id && resumed === (index > 0)), `${name} kept its session`)
    const faults = plans.filter((_plan, index) => proxy.connections[index]?.faulted).map(({ fault }) => fault)
    t.comment(`${name}: ${faults.length} faults, ${follower.welcomes.length} welcomes`)
    for (const fault of ['cut', 'reset', 'half-open']) {
      t.ok(faults.filter(other => other === fault).length >= 5, `${name} had at least five faults of kind ${fault}`)
    }
  }
})
