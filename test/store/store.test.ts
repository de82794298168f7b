import t from 'tap'
import type { QueueResult, QueuedMessage, StoredResponse } from '../../lib/index.js'
import { kStream } from '../../lib/sessions/session.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { HEAVY } from '../support/memory-sink.js'
import { eachStore } from '../support/stores.js'
import { signal, until, within } from '../support/wait.js'

// Each claim of the contract in lib/store/store.ts, on every store; where several processes can share it, from several.

eachStore(t, 'what is sent from any process comes in order, with positions that rise over all logs', async (t, fleet) => {
  const [one, two] = [await fleet.process(), await fleet.process()]
  const session = await openSession(one)
  const before = await stream(one, session)
  const down = await stream(two, await handleOf(two, session), before.cursor)
  const afar = await handleOf(one, session)
  await afar.join('room')
  await afar.send(1)
  await two.channel('room').send(2)
  await one.broadcast('message', 3)
  await (await handleOf(two, session)).send(4)
  await one.channel('room').send('not for it', { except: session })
  await one.channel('empty').send('to nobody')
  await one.broadcast('message', 5)
  await until(() => down.messages().length === 5, 'five messages')
  t.strictSame(down.messages(), [1, 2, 3, 4, 5])
  const positions = down.events.map(({ position }) => position ?? 0)
  t.strictSame(positions, [...positions].sort((a, b) => a - b))
  t.equal(new Set(positions).size, 5)
  t.ok((positions[0] ?? 0) > down.cursor)
  t.strictSame(before.messages(), [])
})

eachStore(t, 'a stream resumes anywhere after any position, and what came to it before does not come again', async (t, fleet) => {
  const processes = [await fleet.process(), await fleet.process()] as const
  const session = await openSession(processes[0])
  const first = await stream(processes[0], session)
  for (let n = 1; n <= 6; n++) await session.send(n)
  await until(() => first.messages().length === 6, 'the messages')
  first.sink.destroy()
  await until(() => !session.connected, 'the disconnect')
  await session.send(7)
  for (const process of processes) {
    for (const skip of [0, 3, 6]) {
      const cursor = skip === 0 ? first.cursor : first.events[skip - 1]?.position ?? 0
      const again = await stream(process, await handleOf(process, session), cursor)
      await until(() => again.messages().length >= 7 - skip, 'the rest')
      t.strictSame(again.messages(), [1, 2, 3, 4, 5, 6, 7].slice(skip))
    }
  }
})

eachStore(t, 'the latest stream is the session\'s, wherever it is, and the one before hears that it is replaced', async (t, fleet) => {
  const [one, two] = [await fleet.process(), await fleet.process()]
  const session = await openSession(one)
  const before = await stream(one, session)
  const after = await stream(two, await handleOf(two, session), before.cursor)
  await until(() => before.sink.closed, 'the end of the first')
  t.match(before.read(), [{ event: 'replaced' }])
  await session.send('to the second')
  await until(() => after.messages().length === 1, 'the message')
  t.equal(before.messages().length, 0)
  t.equal(session.connected, true)
  t.equal((await handleOf(two, session)).connected, true)
})

eachStore(t, 'data changes property by property, for all processes', async (t, fleet) => {
  const [one, two] = [await fleet.process(), await fleet.process()]
  const session = await openSession(one)
  await session.update({ nick: 'ann', tags: [], deep: { list: [[], {}], none: null, big: 9007199254740991 } })
  await (await handleOf(two, session)).update({ nick: 'bob' })
  const expected = { nick: 'bob', tags: [], deep: { list: [[], {}], none: null, big: 9007199254740991 } }
  t.strictSame((await handleOf(two, session)).data, expected)
  t.strictSame((await handleOf(one, session)).data, expected)
})

eachStore(t, 'channels are entered and left from anywhere; what was sent before is still delivered, and members are counted', async (t, fleet) => {
  const [one, two] = [await fleet.process(), await fleet.process()]
  const session = await openSession(one)
  const other = await openSession(two)
  const down = await stream(one, session)
  const afar = await handleOf(two, session)
  t.equal(await one.channel('room').count(), 0)
  await afar.join('room')
  await afar.join('room')
  await other.join('room')
  t.strictSame([await one.channel('room').count(), await two.channel('room').count()], [2, 2])
  await two.channel('room').send('in')
  await afar.leave('room')
  await two.channel('room').send('out')
  await afar.join('room')
  await two.channel('room').send('in again')
  t.strictSame((await handleOf(one, session)).channels, ['room'])
  await until(() => down.messages().length === 2, 'both messages')
  await afar.close()
  await other.close()
  t.equal(await one.channel('room').count(), 0)
  await until(() => down.sink.closed, 'the end')
  t.strictSame(down.messages(), ['in', 'in again'])
})

eachStore(t, 'of the channels that a session has left it gets later what is in the last hundred, and is told of a gap for the others', async (t, fleet) => {
  const one = await fleet.process()
  const session = await openSession(one)
  const visit = async (): Promise<void> => {
    for (let n = 1; n <= 103; n++) {
      await session.join(`room ${n}`)
      await one.channel(`room ${n}`).send(n)
      await session.leave(`room ${n}`)
    }
  }
  const before = await stream(one, session)
  before.sink.destroy()
  await until(() => !session.connected, 'the disconnect')
  await visit()
  const after = await stream(one, session, before.cursor)
  await until(() => after.messages().length === 100, 'the messages')
  t.match(after.events.shift(), { event: 'gap', data: { after: before.cursor, reason: 'count' } })
  t.strictSame(after.messages(), Array.from({ length: 100 }, (_, n) => n + 4))
  after.events.length = 0
  await visit()
  await until(() => after.read().length >= 103, 'the messages of a stream that keeps up')
  t.strictSame(after.events.map(({ data }) => data), Array.from({ length: 103 }, (_, n) => n + 1))
})

eachStore(t, 'a slow stream gets the rest of a channel that was left, though a request came that has it', async (t, fleet) => {
  const one = await fleet.process()
  const session = await openSession(one)
  const first = await stream(one, session)
  await session.join('room')
  for (let n = 0; n < 3; n++) await one.channel('room').send(String(n).repeat(HEAVY))
  await session.leave('room')
  await until(() => first.messages().length === 3, 'the messages')
  const slow = await stream(one, session, first.cursor, true)
  session[kStream].retainForResume()
  await one.acquireStream(session, first.events[2]?.position ?? 0)
  slow.sink.drain(false)
  await session.send('after')
  await until(() => slow.messages().some(data => data === 'after'), 'the message after')
  t.strictSame(slow.messages().map(data => String(data)[0]), ['0', '1', '2', 'a'])
  session[kStream].release()
})

eachStore(t, 'a client that is ahead of the store gets what comes in a channel that it then leaves', async (t, fleet) => {
  const one = await fleet.process()
  const session = await openSession(one)
  const ahead = await stream(one, session, Number.MAX_SAFE_INTEGER, true)
  await session.join('room')
  for (const n of [1, 2, 3]) await one.channel('room').send(n)
  await session.leave('room')
  // All that is known of it is asked for, and what it reads is arranged anew.
  await handleOf(one, session)
  await session.join('hall')
  ahead.sink.drain(false)
  await session.send('after')
  await until(() => ahead.messages().some(data => data === 'after'), 'the message after')
  t.strictSame(ahead.messages(), [1, 2, 3, 'after'])
})

eachStore(t, 'names are nothing but names, whatever they look like', async (t, fleet) => {
  const one = await fleet.process()
  const session = await openSession(one)
  const down = await stream(one, session)
  for (const [n, name] of ['x', 'x:log', 'x:', '', ' ', 'a b\nc', '{}'].entries()) {
    await session.join(name)
    await one.channel(name).send(n)
    t.equal(await one.channel(name).count(), 1)
  }
  await one.broadcast('message', 7, { except: { id: 'nobody\nevent: made up\ndata: 1\n\n' } })
  await until(() => down.messages().length === 8, 'all')
  t.strictSame(down.read().map(({ event, data }) => [event, data]), Array.from({ length: 8 }, (_, n) => ['message', n]))
  await session.update(JSON.parse('{ "__proto__": { "admin": true } }') as Record<string, unknown>)
  t.equal(session.data.admin, undefined)
  t.equal(JSON.stringify(session.data), '{"__proto__":{"admin":true}}')
})

eachStore(t, 'what is kept beside a session is no session, whatever its client calls its messages', async (t, fleet) => {
  const one = await fleet.process()
  const session = await openSession(one)
  await session.send(1)
  for (const key of ['openedAt', 'owner', 'd:admin']) await session[kStream].messageQueue.enqueue(letter(key, () => accepted('done')))
  for (const part of ['log', 'keys', 'order', 'queue']) t.equal(await one.find(`${session.id}:${part}`), undefined)
})

eachStore(t, 'a session ends once, for all processes, and its client can still hear of it', async (t, fleet) => {
  const [one, two] = [await fleet.process(), await fleet.process()]
  const closed: string[] = []
  for (const process of new Set([one, two])) process.addHook('onClose', (_session, reason) => { closed.push(reason) })
  const session = await openSession(one)
  const down = await stream(one, session)
  const { signal } = session
  const afar = await handleOf(two, session)
  await session.send('last words')
  await Promise.all([afar.close('bye'), session.close('bye')])
  await until(() => down.sink.closed, 'the end of the stream')
  t.match(down.read(), [{ event: 'message', data: 'last words' }, { event: 'close', data: { reason: 'bye' } }])
  t.ok(signal.aborted)
  t.strictSame(closed, ['bye'])
  t.equal(await one.find(session.id), undefined)
  await t.rejects(afar.send(1), { code: 'FST_SSE_SESSION_OVER' })
  await t.rejects(afar.join('room'), { code: 'FST_SSE_SESSION_OVER' })
  await t.rejects(afar.update({ late: true }), { code: 'FST_SSE_SESSION_OVER' })
  const late = await stream(two, await handleOf(two, session), down.cursor)
  await until(() => late.sink.closed, 'the end of the late stream')
  t.match(late.read(), [{ event: 'message', data: 'last words' }, { event: 'close', data: { reason: 'bye' } }])
})

eachStore(t, 'a session without a stream expires, and one process is told; one with a stream does not', async (t, fleet) => {
  const options = { resumeTimeout: 300 }
  const [one, two] = [await fleet.process(options), await fleet.process(options)]
  const closed: Array<[id: string, reason: string]> = []
  for (const process of new Set([one, two])) process.addHook('onClose', ({ id }, reason) => { closed.push([id, reason]) })
  const [lost, stays] = [await openSession(one), await openSession(two)]
  const stream1 = await stream(one, lost)
  await stream(two, stays)
  await lost.join('room')
  stream1.sink.destroy()
  await until(() => closed.length > 0, 'the expiry')
  t.strictSame(closed, [[lost.id, 'expired']])
  t.equal(await two.find(lost.id), undefined)
  t.equal((await two.find(stays.id))?.connected, true)
  t.equal(await one.channel('room').count(), 0)
  await until(() => one.size === 1 && two.size === 1, 'both to know')
})

eachStore(t, 'sessions are limited in all and per principal, and their ends make room', async (t, fleet) => {
  const options = { maxSessions: 3, maxSessionsPerPrincipal: 2 }
  const [one, two] = [await fleet.process(options), await fleet.process(options)]
  const ann = await openSession(one, 'ann')
  await openSession(two, 'ann')
  t.equal(await one.open('ann'), undefined)
  await openSession(one, 'bob')
  t.equal(await two.open(undefined), undefined)
  await ann.close()
  await openSession(two, 'ann')
  t.equal(await one.open('ann'), undefined)
})

eachStore(t, 'what the bounds drop is told as a gap, and what is too large is refused', async (t, fleet) => {
  const options = { log: { entries: 3 }, channelLog: { bytes: 60 } }
  const [one, two] = [await fleet.process(options), await fleet.process(options)]
  const session = await openSession(one)
  for (let n = 1; n <= 5; n++) await session.send(n)
  const counted = await stream(two, await handleOf(two, session), session[kStream].cursor)
  await until(() => counted.messages().length === 3, 'what is left')
  t.match(counted.events.map(({ event, data }) => [event, data]), [['gap', { reason: 'count' }], ['message', 3], ['message', 4], ['message', 5]])
  await t.rejects(two.broadcast('message', 'x'.repeat(60)), { code: 'FST_SSE_ENTRY_TOO_LARGE' })
  const other = await openSession(two)
  for (let n = 1; n <= 3; n++) await one.broadcast('message', 'x'.repeat(15))
  const heavy = await stream(one, await handleOf(one, other), other[kStream].cursor)
  await until(() => heavy.messages().length === 2, 'what is left')
  t.match(heavy.events, [{ event: 'gap', data: { reason: 'bytes' } }, { event: 'message' }, { event: 'message' }])
})

eachStore(t, 'what is too old is gone, and told', async (t, fleet) => {
  // What is young is to be read before it is too old, however slow the machine is.
  const one = await fleet.process({ log: { age: 1500 } })
  const session = await openSession(one)
  const { cursor } = session[kStream]
  await session.send('old')
  const begun = performance.now()
  await until(() => performance.now() - begun > 1700, 'it to be too old')
  await session.send('young')
  const down = await stream(one, session, cursor)
  await until(() => down.messages().length === 1, 'what is left')
  t.match(down.events, [{ event: 'gap', data: { reason: 'age' } }, { event: 'message', data: 'young' }])
})

const accepted = (body: unknown = null): StoredResponse => ({ status: 200, headers: { 'x-test': 'yes' }, body, error: undefined })

function letter (key: string | undefined, handle: QueuedMessage['handle'], payload = 'payload'): QueuedMessage {
  return { key, fingerprint: () => payload, handle }
}

eachStore(t, 'messages of a session are handled one at a time, in order of arrival over all processes', async (t, fleet) => {
  const [one, two] = [await fleet.process(), await fleet.process()]
  const session = await openSession(one)
  const handles = [session, await handleOf(two, session)] as const
  const order: number[] = []
  let running = 0
  const deliveries: Array<Promise<QueueResult>> = []
  for (let n = 0; n < 20; n++) {
    const arrived = signal()
    const handle = handles[n % 2] ?? session
    deliveries.push((async () => await handle[kStream].messageQueue.enqueue(letter(undefined, async () => {
      t.equal(++running, 1, 'nothing runs beside it')
      order.push(n)
      await new Promise(resolve => { setImmediate(resolve) })
      running--
      return accepted(n)
    })))())
    // It has arrived when another call, made later over the same connection, was answered.
    handle.update({ n }).then(arrived.resolve, arrived.resolve)
    await within(arrived.promise, 'the arrival')
  }
  const outcomes = await within(Promise.all(deliveries), 'all')
  t.strictSame(order, Array.from({ length: 20 }, (_, n) => n))
  t.strictSame(outcomes.map(({ response: outcome }) => outcome.body), order)
})

eachStore(t, 'a repeat gets the first answer, anywhere, and waits for it where it is being found', async (t, fleet) => {
  const [one, two] = [await fleet.process(), await fleet.process()]
  const session = await openSession(one)
  const afar = await handleOf(two, session)
  let handled = 0
  const go = signal()
  const begun = signal()
  const first = session[kStream].messageQueue.enqueue(letter('key', async () => {
    handled++
    begun.resolve()
    await go.promise
    return accepted({ answer: ['ä', 1, null] })
  }))
  await within(begun.promise, 'the handler')
  const beside = (async () => await afar[kStream].messageQueue.enqueue(letter('key', () => accepted('never'))))()
  await t.rejects(async () => await afar[kStream].messageQueue.enqueue(letter('key', () => accepted('never'), 'another payload')), { code: 'FST_SSE_IDEMPOTENCY_KEY_REUSED' })
  go.resolve()
  const expected = { response: { status: 200, headers: { 'x-test': 'yes' }, body: { answer: ['ä', 1, null] }, error: undefined } }
  t.match(await within(Promise.resolve(first), 'the first answer'), { ...expected, replayed: false })
  t.match(await within(beside, 'the answer beside it'), { ...expected, replayed: true })
  t.match(await afar[kStream].messageQueue.enqueue(letter('key', () => accepted('never'))), { ...expected, replayed: true })
  t.match(await session[kStream].messageQueue.enqueue(letter('key', () => accepted('never'))), { ...expected, replayed: true })
  t.equal(handled, 1)
})

eachStore(t, 'an error is an answer, and a refusal is none', async (t, fleet) => {
  const [one, two] = [await fleet.process(), await fleet.process()]
  const session = await openSession(one)
  const afar = await handleOf(two, session)
  const error = Object.assign(new Error('no'), { statusCode: 409, code: 'OURS' })
  await session[kStream].messageQueue.enqueue(letter('failed', () => ({ status: 409, headers: {}, body: undefined, error })))
  t.match(await afar[kStream].messageQueue.enqueue(letter('failed', () => accepted())), { replayed: true, response: { status: 409, error: { message: 'no', statusCode: 409, code: 'OURS' } } })
  await t.rejects(async () => await session[kStream].messageQueue.enqueue(letter('refused', () => { throw new Error('refused') })), { message: 'refused' })
  t.match(await afar[kStream].messageQueue.enqueue(letter('refused', () => accepted('now'))), { replayed: false, response: { body: 'now' } })
})

eachStore(t, 'outcomes are kept up to a number, the latest ones', async (t, fleet) => {
  const options = { maxIdempotencyKeys: 2 }
  const [one, two] = [await fleet.process(options), await fleet.process(options)]
  const session = await openSession(one)
  for (const key of ['a', 'b', 'c']) await session[kStream].messageQueue.enqueue(letter(key, () => accepted(key)))
  const afar = await handleOf(two, session)
  t.match(await afar[kStream].messageQueue.enqueue(letter('b', () => accepted('again'))), { replayed: true })
  t.match(await afar[kStream].messageQueue.enqueue(letter('c', () => accepted('again'))), { replayed: true })
  t.match(await afar[kStream].messageQueue.enqueue(letter('a', () => accepted('again'))), { replayed: false })
})

eachStore(t, 'several messages are delivered with none between them, and only so many wait', async (t, fleet) => {
  const options = { maxWaitingMessages: 3 }
  const [one, two] = [await fleet.process(options), await fleet.process(options)]
  const session = await openSession(one)
  const afar = await handleOf(two, session)
  const go = signal()
  const order: string[] = []
  const step = (name: string): QueuedMessage => letter(name, async () => {
    order.push(name)
    await go.promise
    return accepted(name)
  })
  const first = (async () => await session[kStream].messageQueue.enqueue(step('first')))()
  await until(() => order.length === 1, 'the first')
  const batch = (async () => await Promise.all(await afar[kStream].messageQueue.enqueueAll([step('a'), step('b')])))()
  await afar.update({})
  const last = (async () => await session[kStream].messageQueue.enqueue(step('last')))()
  await session.update({})
  await t.rejects(async () => await afar[kStream].messageQueue.enqueue(step('too many')), { code: 'FST_SSE_TOO_MANY_WAITING' })
  await t.rejects(async () => await session[kStream].messageQueue.enqueueAll([step('far'), step('too many')]), { code: 'FST_SSE_TOO_MANY_WAITING' })
  go.resolve()
  await within(Promise.all([first, batch, last]), 'all')
  t.strictSame(order, ['first', 'a', 'b', 'last'])
})

eachStore(t, 'a producer anywhere goes at the pace of the stream', async (t, fleet) => {
  const options = { log: { entries: 20 } }
  const [one, two] = [await fleet.process(options), await fleet.process(options)]
  const session = await openSession(one)
  const down = await stream(one, session)
  const afar = await handleOf(two, session)
  down.sink.stalls = true
  const taken: number[] = []
  const produced = afar.stream('message', (function * () { for (let n = 1; n <= 100; n++) { yield taken.push(n) } })())
  while (taken.length < 100) {
    await until(() => down.sink.blocked || taken.length === 100, 'the sink to stall')
    t.ok(taken.length <= down.messages().length + 30, 'no more is taken than a log holds')
    if (down.sink.blocked) down.sink.drain(true)
  }
  down.sink.drain(false)
  await within(produced, 'the producer')
  await until(() => down.messages().length === 100, 'all')
  t.strictSame(down.messages(), Array.from({ length: 100 }, (_, n) => n + 1))
  t.notOk(down.events.some(({ event }) => event === 'gap'))
})
