import t from 'tap'
import type { Session } from '../../lib/index.js'
import { testEachClient, FORCE_CLOSE, range, recordEvents } from '../support/clients.js'
import { startFaultProxy, type Fault } from '../support/fault-proxy.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { serve } from '../support/server.js'
import { deferred, withTimeout } from '../support/wait.js'

const TOTAL = 3_000
const FAULTS = ['cut', 'reset', 'half-open'] satisfies Fault[]

testEachClient(t, 'delivers 3,000 events and 3,000 messages at the same time, once and in order, over broken connections', async (t, connect) => {
  const next = createRandom(chooseSeed(t))
  const below = (limit: number): number => Math.floor(next() * limit)
  const { sessions, port } = await serve(t, { retry: 1, log: { entries: TOTAL, bytes: 2 ** 26 } }, { fastify: FORCE_CLOSE })
  const faults: Fault[] = []
  const proxy = await startFaultProxy(t, port, connection => {
    // The first connection lasts until the client has the id of its session.
    const fault = FAULTS[below(3)] ?? 'cut'
    faults.push(fault)
    return { fault, afterBytes: connection === 0 ? 1500 : 300 + below(8_000), afterBytesUp: 200 + below(8_000) }
  })
  const up: unknown[] = []
  const down: unknown[] = []
  const complete = deferred()
  const check = (): void => { if (up.length >= TOTAL && down.length >= TOTAL) complete.resolve() }
  sessions.handle('up', (_session, data) => {
    up.push(data)
    check()
    return data
  })
  const produce = async (session: Session): Promise<void> => {
    for (let n = 0; n < TOTAL; n++) {
      session.emit('down', n)
      if (n % 10 === 0) await new Promise(resolve => { setImmediate(resolve) })
    }
  }
  sessions.addHook('onOpen', session => { produce(session) })
  const session = connect(proxy.url, { maxQueued: TOTAL })
  const events = recordEvents(session)
  session.on('down', n => {
    down.push(n)
    check()
  })
  const numbers = range(TOTAL)
  const results = Promise.all(numbers.map(n => session.request('up', n)))
  await withTimeout(complete.promise, `all messages: ${up.length} up, ${down.length} down`, 60_000)
  t.strictSame(await withTimeout(results, 'the responses'), numbers)
  t.strictSame(up, numbers)
  t.strictSame(down, numbers)
  t.strictSame([...new Set(events.map(([name]) => name))].filter(name => !['open', 'disconnect', 'resume', 'error'].includes(name)), [])
  const applied = faults.filter((_fault, connection) => proxy.connections[connection]?.faulted)
  for (const fault of FAULTS) t.ok(applied.filter(other => other === fault).length >= 5, `${fault} happened more than a few times`)
})
