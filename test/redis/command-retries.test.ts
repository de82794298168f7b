import t, { type Test } from 'tap'
import { StoreUnavailable, type SseSessionsOptions } from '../../lib/index.js'
import { kStream } from '../../lib/sessions/session.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { accepted, letter } from './support/messages.js'
import { ordersOf } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis.js'
import { farProcess } from '../support/stores.js'
import { signal, until } from '../support/wait.js'

// A client with a timeout of its own gives up an order that Redis does all the same, and what comes behind it, too.

/** A process whose client loses the first answer to an operation, at a time that a test chooses. */
async function losing (t: Test, lost: string, options: SseSessionsOptions = {}) {
  const redis = await startRedis(t)
  const { sessions, client } = await farProcess(t, redis, options)
  const call = client.call.bind(client) as (...args: string[]) => Promise<unknown>
  const gate = signal()
  let times = 0
  let answered = 0
  const lose = async (...command: string[]): Promise<unknown> => {
    const has = ordersOf(command).some(({ operation, args }) => operation === lost && (lost !== 'hold' || Number(args[2]) > 0))
    const number = has ? ++times : 0
    const answer = await call(...command)
    if (number === 1) {
      await gate.promise
      throw new Error('Command timed out')
    }
    if (has) answered++
    return answer
  }
  Object.assign(client, { call: lose })
  return {
    redis,
    sessions,
    sent: () => until(() => times > 0, 'it to be sent'),
    /** Loses the answer, and waits for that to what is sent again. */
    lose: async () => {
      const before = answered
      gate.resolve()
      await until(() => answered > before, 'it to be sent again')
    },
    field: async ({ id }: { id: string }, name: string) => await redis.ask('HGET', `{sse}:s:${id}`, name)
  }
}

t.test('a channel that was left since it was joined stays left', needsRedis, async t => {
  const { sessions, sent, lose } = await losing(t, 'join')
  const session = await openSession(sessions)
  const joined = session.join('room')
  await sent()
  await session.leave('room')
  await lose()
  await joined
  t.equal(await sessions.channel('room').count(), 0)
  t.strictSame(session.channels, [])
})

t.test('a channel that was joined since it was left stays joined', needsRedis, async t => {
  const { sessions, sent, lose } = await losing(t, 'leave')
  const session = await openSession(sessions)
  await session.join('room')
  const left = session.leave('room')
  await sent()
  await session.join('room')
  await lose()
  await left
  t.equal(await sessions.channel('room').count(), 1)
  t.strictSame(session.channels, ['room'])
})

t.test('a session that got another stream since the end of one keeps that', needsRedis, async t => {
  const { sessions, sent, lose, field } = await losing(t, 'detach')
  const session = await openSession(sessions)
  const first = await stream(sessions, session)
  first.sink.destroy()
  await sent()
  const second = await stream(sessions, session, session[kStream].cursor)
  await lose()
  t.not(await field(session, 'owner'), '')
  await session.send(1)
  await until(() => second.messages().length === 1, 'the message')
})

t.test('a session whose stream has ended since it was said to be there has none', needsRedis, async t => {
  const { redis, sessions, sent, lose, field } = await losing(t, 'hold')
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  await redis.ask('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await sent()
  down.sink.destroy()
  await until(async () => await field(session, 'owner') === '', 'its end')
  await lose()
  t.equal(await field(session, 'owner'), '')
})

t.test('data that another process has changed since is as that left it', needsRedis, async t => {
  const { redis, sessions, sent, lose, field } = await losing(t, 'update')
  const { sessions: two } = await farProcess(t, redis)
  const session = await openSession(sessions)
  const changed = session.update({ by: 'one' })
  await sent()
  await until(async () => await field(session, 'version') === '2', 'Redis to know')
  await sessions.find(session.id)
  await (await handleOf(two, session)).update({ by: 'two' })
  await lose()
  await changed
  t.equal(session.data.by, 'two')
})

t.test('a client goes on where its stream was last known to be', needsRedis, async t => {
  const options = { log: { entries: 4 } }
  const { redis, sessions, sent, lose, field } = await losing(t, 'progress', options)
  const { sessions: two } = await farProcess(t, redis, options)
  const session = await openSession(sessions)
  const down = await stream(sessions, session)
  await (await handleOf(two, session)).stream('message', [1, 2, 3, 4])
  await sent()
  await until(() => down.messages().length === 4, 'the messages')
  down.sink.destroy()
  await until(async () => await field(session, 'owner') === '', 'its end')
  await lose()
  t.equal(await field(session, 'cursor'), String(session[kStream].cursor))
})

t.test('a message that waits for the outcome of another is handled where that was refused since', needsRedis, async t => {
  const { redis, sessions, sent, lose } = await losing(t, 'begin')
  const { sessions: other } = await farProcess(t, redis)
  const session = await openSession(other)
  const here = await handleOf(sessions, session)
  const gate = signal()
  const refused = Promise.resolve(session[kStream].messageQueue.enqueue(letter('key', async () => {
    await gate.promise
    throw new StoreUnavailable()
  })))
  const claim = async (): Promise<string> => String(await redis.ask('HGET', `{sse}:s:${session.id}:keys`, 'key'))
  await until(async () => (await claim()).startsWith('r'), 'the first')
  const delivered = Promise.resolve(here[kStream].messageQueue.enqueue(letter('key', () => accepted('done'))))
  await sent()
  await until(async () => (await claim()).endsWith(','), 'the other to wait for it')
  gate.resolve()
  await t.rejects(refused, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await until(async () => await claim() === 'null', 'Redis to know')
  await lose()
  t.match(await delivered, { response: { body: 'done' }, replayed: false })
})

t.test('the app is told of the end of a session that nobody can come back to', needsRedis, async t => {
  const { redis, sessions, sent, lose } = await losing(t, 'end')
  const told: string[] = []
  sessions.addHook('onClose', (_, reason) => { told.push(reason) })
  const session = await openSession(sessions)
  const discarded = sessions.discard(session, 'aborted')
  await sent()
  await until(async () => await redis.ask('ZCARD', '{sse}:deadlines') === 0, 'Redis to know')
  await lose()
  await discarded
  t.strictSame(told, ['aborted'])
})
