import t from 'tap'
import { handleOf, openSession, stream } from './support/client-in-memory.js'
import { needsRedis, startRedis } from './support/redis.js'
import { farProcess } from './support/stores.js'
import { until } from './support/within.js'

// A session's stream moves from process to process, and not all that is told of it is heard in time.

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
