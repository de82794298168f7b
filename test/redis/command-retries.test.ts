import t, { type Test } from 'tap'
import { StoreUnavailable, type Sessions, type SseSessionsOptions } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { createMessage, createResponse, recordHandlers, startGatedMessage } from './support/messages.js'
import { loseFirstReply, repeatFirstCommand } from '../support/redis-commands.js'
import { follow } from '../runs/support/run-client.js'
import { createFeed } from '../runs/support/feed.js'
import { openRunNodes } from './support/run-nodes.js'
import { openTwoNodes } from './support/two-nodes.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openProxiedNode } from '../support/stores.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

// A client with its own command timeout reports an error for a command that Redis executes, while later commands succeed.

/** Opens a node whose client loses the first reply to an operation, at a time that the test chooses. */
async function openWithLostReply (t: Test, lostOperation: string, options: SseSessionsOptions = {}) {
  const redis = await startRedis(t)
  const { sessions, client } = await openProxiedNode(t, redis, options)
  return {
    redis,
    sessions,
    ...loseFirstReply(client, ({ operation, args }) => operation === lostOperation && (lostOperation !== 'read' || args.includes('session'))),
    field: async ({ id }: { id: string }, name: string) => await redis.sendCommand('HGET', `{sse}:s:${id}`, name)
  }
}

/** Records the calls of the hooks `onJoin` and `onLeave`. */
function recordMemberships (sessions: Sessions): string[] {
  const calls: string[] = []
  sessions.addHook('onJoin', () => { calls.push('join') }).addHook('onLeave', () => { calls.push('leave') })
  return calls
}

t.test('a retried join does not undo a later leave', needsRedis, async t => {
  const { sessions, waitForCommand, loseReply } = await openWithLostReply(t, 'join')
  const session = await openSession(sessions)
  const calls = recordMemberships(sessions)
  const join = session.join('room')
  await waitForCommand()
  await session.leave('room')
  await loseReply()
  await join
  t.strictSame(calls.toSorted(), ['join', 'leave'])
  t.equal(await sessions.channel('room').count(), 0)
  t.strictSame(session.channels, [])
})

t.test('a retried join returns the history up to its first execution', needsRedis, async t => {
  const { sessions, waitForCommand, loseReply } = await openWithLostReply(t, 'join')
  const session = await openSession(sessions)
  await sessions.channel('room', { keep: 60_000 }).send('before')
  const join = session.join('room', { history: 5 })
  await waitForCommand()
  await sessions.channel('room').send('after')
  await loseReply()
  t.strictSame(await join, [{ event: 'message', data: 'before' }])
})

t.test('a retried join is refused again although the session has left a channel since', needsRedis, async t => {
  const options = { maxChannelsPerSession: 1 }
  const { redis, sessions, waitForCommand, loseReply } = await openWithLostReply(t, 'join', options)
  const { sessions: other } = await openProxiedNode(t, redis, options)
  const session = await openSession(sessions)
  await (await findSession(other, session)).join('first')
  const join = session.join('second')
  await waitForCommand()
  await session.leave('first')
  await loseReply()
  await t.rejects(join, { code: 'FST_SSE_TOO_MANY_CHANNELS' })
  t.strictSame(session.channels, [])
})

t.test('a retried leave does not undo a later join', needsRedis, async t => {
  const { sessions, waitForCommand, loseReply } = await openWithLostReply(t, 'leave')
  const session = await openSession(sessions)
  await session.join('room')
  const calls = recordMemberships(sessions)
  const leave = session.leave('room')
  await waitForCommand()
  await session.join('room')
  await loseReply()
  await leave
  t.strictSame(calls.toSorted(), ['join', 'leave'])
  t.equal(await sessions.channel('room').count(), 1)
  t.strictSame(session.channels, ['room'])
})

t.test('a retried join or leave that has changed nothing runs no hook', needsRedis, async t => {
  for (const operation of ['join', 'leave'] as const) {
    const { redis, sessions, waitForCommand, loseReply } = await openWithLostReply(t, operation)
    const { sessions: other } = await openProxiedNode(t, redis)
    const session = await openSession(sessions)
    if (operation === 'join') await (await findSession(other, session)).join('room')
    const calls = recordMemberships(sessions)
    const call = session[operation]('room')
    await waitForCommand()
    await loseReply()
    await call
    t.strictSame(calls, [])
    t.equal(await sessions.channel('room').count(), operation === 'join' ? 1 : 0)
  }
})

t.test('a retried join of a session that was closed meanwhile runs both hooks', needsRedis, async t => {
  const { sessions, waitForCommand, loseReply } = await openWithLostReply(t, 'join')
  const session = await openSession(sessions)
  const calls = recordMemberships(sessions)
  const join = session.join('room')
  await waitForCommand()
  const close = session.close()
  await loseReply()
  await join
  await close
  t.strictSame(calls.toSorted(), ['join', 'leave'])
})

t.test('a retried close runs onLeave for the channels of the session', needsRedis, async t => {
  for (const keep of [true, false]) {
    const { sessions, waitForCommand, loseReply } = await openWithLostReply(t, 'end')
    const session = await openSession(sessions)
    const calls = recordMemberships(sessions)
    await session.join('room')
    const close = keep ? session.close() : sessions.discard(session, 'refused')
    await waitForCommand()
    await loseReply()
    await close
    t.strictSame(calls, ['join', 'leave'])
  }
})

t.test('a retried detach does not release a newer stream', needsRedis, async t => {
  const { sessions, waitForCommand, loseReply, field } = await openWithLostReply(t, 'release')
  const session = await openSession(sessions)
  const first = await attachMemoryStream(sessions, session)
  first.sink.destroy()
  await waitForCommand()
  const second = await attachMemoryStream(sessions, session, session[kInternals].cursor)
  await loseReply()
  t.not(await field(session, 'owner'), '')
  await session.send(1)
  await waitUntil(() => second.messages().length === 1, 'the message')
})

t.test('a retried read does not restore a stream that has ended', needsRedis, async t => {
  const { redis, sessions, waitForCommand, loseReply, field } = await openWithLostReply(t, 'read')
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await waitForCommand()
  down.sink.destroy()
  await waitUntil(async () => await field(session, 'owner') === '', 'the owner to be released')
  await loseReply()
  t.equal(await field(session, 'owner'), '')
})

t.test('a retried update does not overwrite a later update of another node', needsRedis, async t => {
  const { redis, sessions, waitForCommand, loseReply, field } = await openWithLostReply(t, 'update')
  const { sessions: otherSessions } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const update = session.update({ by: 'one' })
  await waitForCommand()
  await waitUntil(async () => await field(session, 'version') === '2', 'Redis to execute the command')
  await sessions.find(session.id)
  await (await findSession(otherSessions, session)).update({ by: 'two' })
  await loseReply()
  await update
  t.equal(session.data.by, 'two')
})

t.test('a retried cursor update does not move the cursor back', needsRedis, async t => {
  const options = { log: { entries: 4 } }
  const { redis, sessions, waitForCommand, loseReply, field } = await openWithLostReply(t, 'commit_cursor', options)
  const { sessions: otherSessions } = await openProxiedNode(t, redis, options)
  const session = await openSession(sessions)
  const down = await attachMemoryStream(sessions, session)
  await (await findSession(otherSessions, session)).stream('message', [1, 2, 3, 4])
  await waitForCommand()
  await waitUntil(() => down.messages().length === 4, 'the messages')
  down.sink.destroy()
  await waitUntil(async () => await field(session, 'owner') === '', 'the owner to be released')
  await loseReply()
  t.equal(await field(session, 'cursor'), String(session[kInternals].cursor))
})

t.test('handles a retried repeat itself if the first message was rejected meanwhile', needsRedis, async t => {
  const { redis, sessions, waitForCommand, loseReply } = await openWithLostReply(t, 'enqueue')
  const { sessions: otherSessions } = await openProxiedNode(t, redis)
  const session = await openSession(otherSessions)
  const handle = await findSession(sessions, session)
  const gate = deferred()
  const rejected = Promise.resolve(session[kInternals].messageQueue.enqueue(createMessage('key', async () => {
    await gate.promise
    throw new StoreUnavailable()
  })))
  const readEntry = async (): Promise<string> => String(await redis.sendCommand('HGET', `{sse}:s:${session.id}:records`, 'key'))
  await waitUntil(async () => (await readEntry()).startsWith('r'), 'the first message')
  const result = Promise.resolve(handle[kInternals].messageQueue.enqueue(createMessage('key', () => createResponse('done'))))
  await waitForCommand()
  await waitUntil(async () => (await readEntry()).endsWith(','), 'the repeat to wait for it')
  gate.resolve()
  await t.rejects(rejected, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await waitUntil(async () => await readEntry() === 'null', 'Redis to execute the command')
  await loseReply()
  t.match(await result, { response: { body: 'done' }, replayed: false })
})

t.test('a retried end runs the onClose hook of a discarded session', needsRedis, async t => {
  const { redis, sessions, waitForCommand, loseReply } = await openWithLostReply(t, 'end')
  const closeReasons: string[] = []
  sessions.addHook('onClose', (_, reason) => { closeReasons.push(reason) })
  const session = await openSession(sessions)
  const discard = sessions.discard(session, 'aborted')
  await waitForCommand()
  await waitUntil(async () => await redis.sendCommand('ZCARD', '{sse}:deadlines') === 0, 'Redis to execute the command')
  await loseReply()
  await discard
  t.strictSame(closeReasons, ['aborted'])
})

t.test('a retried end of a session that another process has closed runs no hook', needsRedis, async t => {
  const { redis, sessions, waitForCommand, loseReply } = await openWithLostReply(t, 'end')
  const { sessions: other } = await openProxiedNode(t, redis)
  const closeReasons: string[] = []
  sessions.addHook('onClose', (_, reason) => { closeReasons.push(reason) })
  const session = await openSession(sessions)
  await other.discard(await findSession(other, session), 'expired')
  const discard = sessions.discard(session, 'aborted')
  await waitForCommand()
  await loseReply()
  await discard
  t.strictSame(closeReasons, [])
})

t.test('a retried open does not create a session that was removed meanwhile', needsRedis, async t => {
  const { redis, sessions, waitForCommand, loseReply } = await openWithLostReply(t, 'create')
  const opened = sessions.open(undefined)
  await waitForCommand()
  const list = async (): Promise<string[]> => await redis.sendCommand('ZRANGE', '{sse}:deadlines', '0', '-1') as string[]
  await waitUntil(async () => (await list()).length === 1, 'the session')
  const [id = ''] = await list()
  const { sessions: other } = await openProxiedNode(t, redis)
  await other.discard(await findSession(other, { id }), 'expired')
  await loseReply()
  await opened
  t.strictSame(await list(), [])
})

t.test('a retried removal of a node from the readers of a run does not remove a later reader', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t)
  await nodeA.runs.start('a', {}, nodeA.feed.producer)
  const { waitForCommand, loseReply } = loseFirstReply(nodeB.client, ({ operation }) => operation === 'run_unfollow')
  const first = await follow(t, nodeB.runUrl)
  first.abort()
  await waitForCommand()
  const later = await follow(t, nodeB.runUrl)
  await loseReply()
  nodeA.feed.add(1)
  await later.waitFor('1')
})

t.test('a retried comparison of runs after a rollback does not end a later run', needsRedis, async t => {
  const [redis, node] = await openRunNodes(t)
  await node.runs.start('a', {}, node.feed.producer)
  const reader = await follow(t, node.runUrl)
  node.feed.add(1)
  await reader.waitFor('1')
  const { waitForCommand, loseReply } = loseFirstReply(node.client, ({ operation }) => operation === 'run_reconcile')
  await redis.sendCommand('HSET', '{sse}', 'position', '1')
  await node.runs.find('a')
  await waitForCommand()
  const feed = createFeed()
  const run = await node.runs.start('b', {}, feed.producer)
  await loseReply()
  feed.end()
  await waitUntil(() => run.status !== 'running', 'the end')
  t.equal(run.status, 'finished')
})

t.test('a retried command that ends the wait of a repeat does not end that of a later repeat', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB, client, pauseReplies, pausePublications }] = await openTwoNodes(t, { maxIdempotencyKeys: 0 })
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const { gate, started, handled, handle, running } = startGatedMessage(session)
  await withTimeout(started, 'the first message')
  const { waitForCommand, loseReply } = loseFirstReply(client, ({ operation }) => operation === 'complete')
  pauseReplies(true)
  await t.rejects(withTimeout(Promise.resolve(remote[kInternals].messageQueue.enqueue(createMessage('a', handle('repeat')))), 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  pauseReplies(false)
  await waitForCommand()
  const repeat = remote[kInternals].messageQueue.enqueue(createMessage('a', handle('repeat')))
  // The repeat has arrived when a later call on the same connection has settled.
  await remote.update({})
  pausePublications(true)
  gate.resolve()
  await running
  await loseReply()
  await session[kInternals].messageQueue.enqueue(createMessage('b', handle('b')))
  pausePublications(false)
  t.match(await withTimeout(Promise.resolve(repeat), 'the repeat'), { replayed: true, response: { body: 'a' } })
  t.strictSame(handled, ['b'])
})

t.test('a start of a run that was not executed because another one exists is decided again if its reply is lost', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t)
  const feed = createFeed()
  const existing = await nodeB.runs.start('a', {}, feed.producer)
  const { waitForCommand, loseReply } = loseFirstReply(nodeA.client, ({ operation }) => operation === 'run_start')
  const started = nodeA.runs.start('a', { reuse: 'never' }, createFeed().producer)
  await waitForCommand()
  // Redis has executed the command when a later one of the same connection is executed.
  await nodeA.client.ping()
  feed.end()
  await waitUntil(() => existing.status !== 'running', 'the end')
  await loseReply()
  const run = await started
  t.equal(run.status, 'running')
  t.strictSame(await redis.sendCommand('HGET', '{sse}:run_names', JSON.stringify([null, 'a'])), run.id)
})

// A connection that the store has replaced can deliver a command late, when the reply to its second copy has arrived already.

t.test('a late copy of a batch does not take the key of a refused message again', needsRedis, async t => {
  const [redis, { sessions: nodeA, client }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const executeAgain = repeatFirstCommand(client, redis, ({ operation }) => operation === 'enqueue')
  const { gate, handled, handle } = { gate: deferred(), ...recordHandlers() }
  const [refused, running] = await session[kInternals].messageQueue.enqueueAll([
    createMessage('a', () => { throw new Error('refused') }),
    createMessage('b', async () => {
      await gate.promise
      return createResponse('b')
    })
  ])
  await t.rejects(refused as Promise<unknown>, { message: 'refused' })
  t.match(JSON.stringify(await executeAgain()), '["resend",["1"]')
  gate.resolve()
  await running
  const remote = await findSession(nodeB, session)
  t.match(await withTimeout(Promise.resolve(remote[kInternals].messageQueue.enqueue(createMessage('a', handle('a')))), 'the repeat'), { replayed: false })
  t.strictSame(handled, ['a'])
})

t.test('a batch whose reply is lost is sent again if a repeat in it is new meanwhile', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB, client }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const gate = deferred()
  const original = Promise.resolve(session[kInternals].messageQueue.enqueue(createMessage('a', async () => {
    await gate.promise
    throw new Error('refused')
  })))
  const { waitForCommand, loseReply } = loseFirstReply(client, ({ operation }) => operation === 'enqueue')
  const { handled, handle } = recordHandlers()
  const batch = remote[kInternals].messageQueue.enqueueAll([createMessage('a', handle('a on B')), createMessage('b', handle('b on B'))])
  await waitForCommand()
  gate.resolve()
  await t.rejects(original, { message: 'refused' })
  await loseReply()
  await withTimeout(Promise.all(await batch), 'the batch')
  t.strictSame(handled, ['a on B', 'b on B'])
  t.match(await session[kInternals].messageQueue.enqueue(createMessage('a', handle('a on A'))), { replayed: true, response: { body: 'a on B' } })
})

t.test('a late copy of the start of a run starts no run', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t)
  const feed = createFeed()
  const run = await nodeB.runs.start('a', { reuse: 'never' }, feed.producer)
  const executeAgain = repeatFirstCommand(nodeA.client, redis, ({ operation }) => operation === 'run_start')
  const start = (): ReturnType<typeof nodeA.runs.start> => nodeA.runs.start('a', { reuse: 'never' }, createFeed().producer)
  await t.rejects(start(), { code: 'FST_SSE_RUN_EXISTS' })
  feed.end()
  await waitUntil(() => run.status !== 'running', 'the end')
  await executeAgain()
  t.match(await start(), { status: 'running' })
})
