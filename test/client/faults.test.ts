import t from 'tap'
import type { Session } from '../../lib/index.js'
import { eachClient, forced, record } from '../support/clients.js'
import { faultProxy, type Fault } from '../support/proxy.js'
import { random, seedOf } from '../support/random.js'
import { serve } from '../support/server.js'
import { signal, within } from '../support/wait.js'

const TOTAL = 10_000
const FAULTS = ['cut', 'reset', 'half-open'] satisfies Fault[]

eachClient(t, '10,000 messages up and 10,000 down, at once, are each handled once and in order over broken connections', async (t, connect) => {
  const next = random(seedOf(t))
  const below = (limit: number): number => Math.floor(next() * limit)
  const { sessions, port } = await serve(t, { retry: 1, log: { entries: TOTAL, bytes: 2 ** 26 } }, { fastify: forced })
  const faults: Fault[] = []
  const proxy = await faultProxy(t, port, connection => {
    // The first stream lives until the client knows its session.
    const fault = FAULTS[below(3)] ?? 'cut'
    faults.push(fault)
    return { fault, afterBytes: connection === 0 ? 1500 : 300 + below(20_000), afterBytesUp: 200 + below(20_000) }
  })
  const up: unknown[] = []
  const down: unknown[] = []
  const reached = signal()
  const look = (): void => { if (up.length >= TOTAL && down.length >= TOTAL) reached.resolve() }
  sessions.handle('up', (_session, data) => {
    up.push(data)
    look()
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
  const events = record(session)
  session.on('down', n => {
    down.push(n)
    look()
  })
  const numbers = Array.from({ length: TOTAL }, (_, n) => n)
  const answers = Promise.all(numbers.map(n => session.request('up', n)))
  await within(reached.promise, `all messages: ${up.length} up, ${down.length} down`, 60_000)
  t.strictSame(await within(answers, 'the answers'), numbers)
  t.strictSame(up, numbers)
  t.strictSame(down, numbers)
  t.strictSame([...new Set(events.map(([name]) => name))].filter(name => !['open', 'disconnect', 'resume', 'error'].includes(name)), [])
  const broken = faults.filter((_fault, connection) => proxy.connections[connection]?.faulted)
  for (const fault of FAULTS) t.ok(broken.filter(other => other === fault).length >= 5, `${fault} happened more than a few times`)
})
