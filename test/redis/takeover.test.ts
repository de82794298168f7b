import Fastify from 'fastify'
import t from 'tap'
import { kStream } from '../../lib/sessions/session.js'
import { handleOf, openSession, stream } from '../support/memory-client.js'
import { MemorySink, received } from '../support/memory-sink.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis.js'
import { farProcess } from '../support/stores.js'
import { until } from '../support/wait.js'

// A session's stream moves from process to process, and not all that is told of it is heard in time.

const epochOf = (redis: RedisServer, { id }: { id: string }): Promise<unknown> => redis.ask('HGET', `{sse}:s:${id}`, 'epoch')

t.test('what a process did not hear while another had the session comes when its client is back', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: two } = await farProcess(t, redis)
  const { sessions: one, holdPublished } = await farProcess(t, redis)
  const session = await openSession(one)
  const first = await stream(one, session)
  holdPublished(true)
  const second = await stream(two, await handleOf(two, session), first.cursor)
  await (await handleOf(two, session)).send(1)
  await until(() => second.messages().length === 1, 'the message')
  const third = await stream(one, session, first.cursor)
  holdPublished(false)
  await until(() => third.messages().length === 1, 'the message again')
  t.ok(first.sink.closed)
})

t.test('a stream that was asked for before another process\'s takes that not back', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: two } = await farProcess(t, redis)
  const { sessions: one, holdAnswers } = await farProcess(t, redis)
  const session = await openSession(one)
  const first = await stream(one, session)
  await session.send(1)
  await until(() => first.messages().length === 1, 'the message')
  holdAnswers(true)
  const asked = stream(one, session, first.cursor)
  await until(async () => await epochOf(redis, session) === '2', 'Redis to know')
  const down = await stream(two, await handleOf(two, session), first.cursor)
  await until(() => first.sink.closed, 'it to be heard of')
  holdAnswers(false)
  const late = await asked
  await until(() => late.sink.closed, 'the end of the one that was asked for before')
  t.match(late.read(), [{ event: 'replaced' }])
  await session.send(2)
  await until(() => down.messages().length === 2, 'the messages')
  t.notOk(down.sink.closed)
})

t.test('a stream that is heard to be replaced while it is already taken back has all there is', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: two } = await farProcess(t, redis)
  const { sessions: one, holdAnswers, holdPublished } = await farProcess(t, redis)
  const session = await openSession(one)
  const first = await stream(one, session)
  await session.send(1)
  await until(() => first.messages().length === 1, 'the message')
  holdPublished(true)
  await stream(two, await handleOf(two, session), first.cursor)
  await (await handleOf(two, session)).send(2)
  holdAnswers(true)
  const asked = stream(one, session, first.cursor)
  await until(async () => await epochOf(redis, session) === '3', 'Redis to know')
  holdPublished(false)
  await until(() => first.sink.closed, 'it to be heard of')
  holdAnswers(false)
  const down = await asked
  await until(() => down.messages().length === 2, 'the messages')
  t.strictSame(down.messages(), [1, 2])
  await session.send(3)
  await until(() => down.messages().length === 3, 'the next')
})

t.test('a stream that was replaced without its process hearing of it ends when that is found out', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: two } = await farProcess(t, redis)
  const { sessions: one, holdPublished, proxy } = await farProcess(t, redis)
  const session = await openSession(one)
  const first = await stream(one, session)
  holdPublished(true)
  const down = await stream(two, await handleOf(two, session), first.cursor)
  proxy.connections[1]?.client.resetAndDestroy()
  await until(() => first.sink.closed, 'the end')
  t.match(first.read(), [{ event: 'replaced' }])
  await session.send(1)
  await until(() => down.messages().length === 1, 'the message')
})

t.test('a stream of a session that has ended in the meantime has its end', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: two } = await farProcess(t, redis)
  const { sessions: one, holdPublished, settled } = await farProcess(t, redis)
  const session = await openSession(two)
  const here = await handleOf(one, session)
  const { signal } = here
  holdPublished(true)
  await session.send(1)
  await session.close('enough')
  const asked = stream(one, here, here[kStream].cursor)
  await until(async () => await epochOf(redis, session) === '1', 'Redis to know')
  await settled()
  t.ok(here.closed)
  holdPublished(false)
  const down = await asked
  await until(() => down.sink.closed && signal.aborted, 'the end')
  t.match(down.read(), [{ event: 'message', data: 1 }, { event: 'close', data: { reason: 'enough' } }])
})

t.test('a stream that another process has had before it begins is over, and its client may come back', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: two } = await farProcess(t, redis)
  const { sessions: one } = await farProcess(t, redis)
  const session = await openSession(one)
  const { cursor } = session[kStream]
  const generation = session[kStream].retainForResume()
  const head = await one.acquireStream(session, cursor) ?? 0
  // While the response is on its way through the hooks.
  const down = await stream(two, await handleOf(two, session), cursor)
  down.sink.destroy()
  await until(async () => await redis.ask('HGET', `{sse}:s:${session.id}`, 'owner') === '', 'its end')
  await session.send(1)
  const sink = new MemorySink(false)
  await handleOf(one, session)
  session[kStream].attach({ sink, cursor, head, welcome: '{}', resumed: true, generation, logger: Fastify().log })
  await until(() => sink.closed, 'the end of the first')
  t.strictSame(received(sink).map(({ event }) => event), ['welcome'])
  const again = await stream(one, session, cursor)
  await until(() => again.messages().length === 1, 'the message')
})
