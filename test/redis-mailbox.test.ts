import t from 'tap'
import type { Letter, Outcome, Session } from '../lib/index.js'
import { handleOf, openSession, stream } from './support/client-in-memory.js'
import { needsRedis, startRedis } from './support/redis.js'
import { farProcess } from './support/stores.js'
import { signal, until, within } from './support/within.js'

const accepted = (body: string): Outcome => ({ status: 200, headers: {}, body, error: undefined })

function letter (key: string | undefined, handle: Letter['handle']): Letter {
  return { key, payload: () => 'payload', handle }
}

/** Begins to handle a message of key `a`, which lasts until the gate opens. */
function runOne (session: Session) {
  const gate = signal()
  const handled: string[] = []
  const handle = (name: string) => (): Outcome => {
    handled.push(name)
    return accepted(name)
  }
  const running = session.mailbox.deliver(letter('a', async () => {
    await gate.promise
    return accepted('a')
  }))
  return { gate, handled, handle, running }
}

t.test('an outcome that is told while another question is on its way is that of its own message', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two, holdAnswers, settled } = await farProcess(t, redis)
  const session = await openSession(one)
  const down = await stream(two, await openSession(two))
  const afar = await handleOf(two, session)
  const queue = `{sse}:s:${session.id}:queue`
  const { gate, handled, handle, running } = runOne(session)
  await until(async () => await redis.ask('LLEN', queue) === 1, 'the first to run')
  const repeat = afar.mailbox.deliver(letter('a', handle('repeat')))
  await settled()
  holdAnswers(true)
  const batch = afar.mailbox.deliverAll([letter('a', handle('repeat')), letter('b', handle('b'))])
  await until(async () => await redis.ask('LLEN', queue) === 2, 'the batch to wait')
  gate.resolve()
  await running
  // By then the outcome has been told.
  await one.broadcast('message', 1)
  await until(() => down.messages().length === 1, 'the broadcast')
  holdAnswers(false)
  await repeat
  const [first, second] = await batch
  t.match(await first, { replayed: true, outcome: { body: 'a' } })
  t.match(await second, { replayed: false, outcome: { body: 'b' } })
  t.strictSame(handled, ['b'])
  t.match(await within(Promise.resolve(session.mailbox.deliver(letter(undefined, handle('c')))), 'the next'), { outcome: { body: 'c' } })
})

t.test('a process that closes refuses the messages that wait, and goes when those are done that it handles', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two } = await farProcess(t, redis)
  const [session, other] = [await openSession(one), await openSession(two)]
  const afar = await handleOf(two, session)
  const gates = [signal(), signal()] as const
  const running = session.mailbox.deliver(letter(undefined, async () => {
    await gates[0].promise
    return accepted('first')
  }))
  const handled = other.mailbox.deliver(letter('key', async () => {
    await gates[1].promise
    await other.send('from the handler')
    return accepted('second')
  }))
  const queue = `{sse}:s:${session.id}:queue`
  await until(async () => await redis.ask('LLEN', queue) === 1, 'the first to run')
  const waits = (async () => await afar.mailbox.deliver(letter(undefined, () => accepted('never'))))()
  waits.catch(() => {})
  await until(async () => await redis.ask('LLEN', queue) === 2, 'it to wait')
  const closed = two.close()
  await t.rejects(within(waits, 'the refusal'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  gates[1].resolve()
  t.match(await handled, { outcome: { body: 'second' } })
  await closed
  const again = (await handleOf(one, other)).mailbox.deliver(letter('key', () => accepted('again')))
  t.match(await again, { replayed: true, outcome: { body: 'second' } })
  gates[0].resolve()
  t.match(await running, { outcome: { body: 'first' } })
})

t.test('a batch may repeat itself, and what is being handled elsewhere', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: one } = await farProcess(t, redis)
  const { sessions: two } = await farProcess(t, redis)
  const session = await openSession(one)
  const afar = await handleOf(two, session)
  const { gate, handled, handle, running } = runOne(session)
  await until(async () => await redis.ask('LLEN', `{sse}:s:${session.id}:queue`) === 1, 'the first to run')
  const other = { ...letter('b', handle('other')), payload: () => 'other' }
  const batch = await afar.mailbox.deliverAll([letter('a', handle('repeat')), letter('b', handle('b')), letter('b', handle('twin')), other, letter(undefined, handle('c'))])
  for (const delivery of batch) delivery.catch(() => {})
  // It is asked for again and again meanwhile.
  for (let number = 1; number < 4; number++) {
    await until(() => two.size === number, 'the next tick')
    await openSession(one)
  }
  t.strictSame(handled, [])
  gate.resolve()
  await running
  t.match(await batch[0], { replayed: true, outcome: { body: 'a' } })
  t.match(await batch[1], { replayed: false, outcome: { body: 'b' } })
  t.match(await batch[2], { replayed: true, outcome: { body: 'b' } })
  await t.rejects(batch[3] as Promise<unknown>, { code: 'FST_SSE_IDEMPOTENCY_KEY_REUSED' })
  t.match(await batch[4], { replayed: false, outcome: { body: 'c' } })
  t.strictSame(handled, ['b', 'c'])
})
