import t from 'tap'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { random, seedOf } from '../support/random.js'
import { eachLibrary } from '../support/stores.js'
import { until, within } from '../support/wait.js'

// Nothing is to be lost for the want of room.
const bounds = { entries: 1_000_000, bytes: 1_000_000_000 }
const roomy = { log: bounds, channelLog: bounds }

eachLibrary(t, 'whatever connections to Redis break, each message is appended once and in order, and comes', async (t, fleet, redis) => {
  const [here, there] = [await fleet.process(roomy), await fleet.process(roomy)]
  const chance = random(seedOf(t))
  const session = await openSession(here)
  const down = await stream(here, session)
  await session.join('room')
  const afar = await handleOf(there, session)
  const sends: Array<() => Promise<void>> = [
    () => afar.send(count),
    () => there.channel('room').send(count),
    () => there.broadcast('message', count)
  ]
  const outcomes: Array<Promise<boolean>> = []
  let count = 0
  const end = performance.now() + 4000
  while (performance.now() < end) {
    const send = sends[Math.floor(chance() * sends.length)]
    count++
    if (send !== undefined) outcomes.push(send().then(() => true, () => false))
    if (chance() < 0.03) await redis.ask('CLIENT', 'KILL', 'TYPE', chance() < 0.5 ? 'normal' : 'pubsub')
    else if (chance() < 0.5) await new Promise(resolve => { setImmediate(resolve) })
  }
  const accepted = await within(Promise.all(outcomes), 'the outcomes')
  const wanted = accepted.flatMap((was, index) => was ? [index + 1] : [])
  t.ok(wanted.length > 100, `${wanted.length} of ${count} were accepted`)
  await until(() => down.messages().includes(wanted.at(-1)), 'the last message')
  const came = down.messages() as number[]
  t.strictSame(came.filter(n => accepted[n - 1]), wanted, 'all that was accepted, once')
  t.strictSame(came, [...came].sort((a, b) => a - b), 'in order')
  t.equal(new Set(came).size, came.length, 'and nothing else twice')
  t.notOk(down.read().some(({ event }) => event === 'gap'), 'without a gap')
})
