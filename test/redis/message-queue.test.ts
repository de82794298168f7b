import t from 'tap'
import { kInternals } from '../../lib/sessions/session.js'
import { findSession, openSession, attachMemoryStream } from '../support/memory-stream.js'
import { openTwoNodes, pauseUntilExpired } from './support/two-nodes.js'
import { createMessage, createResponse, readQueue, recordHandlers, startGatedMessage } from './support/messages.js'
import { countReplies, interceptStoreCommands, loseFirstReply } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { openProxiedNode } from '../support/stores.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

t.test('a response that is published while another request is pending goes to its own message', needsRedis, async t => {
  const [redis, { sessions: nodeA }, { sessions: nodeB, pauseReplies, waitForReplies }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const down = await attachMemoryStream(nodeB, await openSession(nodeB))
  const remote = await findSession(nodeB, session)
  const { gate, started, handled, handle, running } = startGatedMessage(session)
  await withTimeout(started, 'the first message')
  const repeat = remote[kInternals].messageQueue.enqueue(createMessage('a', handle('repeat')))
  await waitForReplies()
  pauseReplies(true)
  const batch = remote[kInternals].messageQueue.enqueueAll([createMessage('a', handle('repeat')), createMessage('b', handle('b'))])
  await waitUntil(async () => (await readQueue(redis, session.id)).length === 2, 'the batch to be queued')
  gate.resolve()
  await running
  // When the broadcast arrives, the response has been published.
  await nodeA.broadcast('message', 1)
  await waitUntil(() => down.messages().length === 1, 'the broadcast')
  pauseReplies(false)
  await repeat
  const [first, second] = await batch
  t.match(await first, { replayed: true, response: { body: 'a' } })
  t.match(await second, { replayed: false, response: { body: 'b' } })
  t.strictSame(handled, ['b'])
  t.match(await withTimeout(Promise.resolve(session[kInternals].messageQueue.enqueue(createMessage(undefined, handle('c')))), 'the next message'), { response: { body: 'c' } })
})

t.test('a closing node rejects queued messages and waits for its running handlers', needsRedis, async t => {
  const [redis, { sessions: nodeA }, { sessions: nodeB }] = await openTwoNodes(t)
  const [session, other] = [await openSession(nodeA), await openSession(nodeB)]
  const remote = await findSession(nodeB, session)
  const gates = [deferred(), deferred()] as const
  const running = session[kInternals].messageQueue.enqueue(createMessage(undefined, async () => {
    await gates[0].promise
    return createResponse('first')
  }))
  const started = deferred()
  const handled = other[kInternals].messageQueue.enqueue(createMessage('key', async () => {
    started.resolve()
    await gates[1].promise
    await other.send('from the handler')
    return createResponse('second')
  }))
  await waitUntil(async () => (await readQueue(redis, session.id)).length === 1, 'the first message to run')
  const queued = (async () => await remote[kInternals].messageQueue.enqueue(createMessage(undefined, () => createResponse('never'))))()
  queued.catch(() => {})
  await waitUntil(async () => (await readQueue(redis, session.id)).length === 2, 'the message to be queued')
  await withTimeout(started.promise, 'the handler')
  const closed = nodeB.close()
  await t.rejects(withTimeout(queued, 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  gates[1].resolve()
  t.match(await handled, { response: { body: 'second' } })
  await closed
  const repeat = (await findSession(nodeA, other))[kInternals].messageQueue.enqueue(createMessage('key', () => createResponse('second run')))
  t.match(await repeat, { replayed: true, response: { body: 'second' } })
  gates[0].resolve()
  t.match(await running, { response: { body: 'first' } })
})

t.test('a closing node rejects queued messages and messages that are being enqueued', needsRedis, async t => {
  const [redis, { sessions: nodeA }, { sessions: nodeB, waitForReplies }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const { gate, started, handled, handle, running } = startGatedMessage(session)
  await withTimeout(started, 'the first message')
  const { messageQueue } = (await findSession(nodeB, session))[kInternals]
  const queued = Promise.resolve(messageQueue.enqueue(createMessage(undefined, handle('queued'))))
  queued.catch(() => {})
  await waitUntil(async () => (await readQueue(redis, session.id)).length === 2, 'the message to be queued')
  await waitForReplies()
  const pending = Promise.resolve(messageQueue.enqueue(createMessage(undefined, handle('pending'))))
  pending.catch(() => {})
  await nodeB.close()
  await t.rejects(async () => await messageQueue.enqueueAll([createMessage(undefined, handle('batch'))]), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  for (const result of [queued, pending]) await t.rejects(withTimeout(result, 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  gate.resolve()
  await running
  t.strictSame(handled, [])
})

t.test('a message whose enqueueing timed out does not block later messages', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB, pauseReplies }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const { handled, handle } = recordHandlers()
  pauseReplies(true)
  await t.rejects(withTimeout(Promise.resolve(remote[kInternals].messageQueue.enqueue(createMessage(undefined, handle('timed out')))), 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  pauseReplies(false)
  await withTimeout(Promise.resolve(session[kInternals].messageQueue.enqueue(createMessage(undefined, handle('next')))), 'the next message')
  t.strictSame(handled, ['next'])
})

t.test('messages that fail while Redis cannot be reached leave no commands', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client, proxy } = await openProxiedNode(t, redis)
  const completed: string[] = []
  interceptStoreCommands(client, commands => {
    for (const { operation, args } of commands) if (operation === 'complete') completed.push(args[3] as string)
  })
  const session = await openSession(sessions)
  const { messageQueue } = session[kInternals]
  const { handled, handle } = recordHandlers()
  const enqueue = async (key: string): Promise<unknown> => await messageQueue.enqueue(createMessage(key, handle(key)))
  proxy.setDown(true)
  await waitUntil(() => client.status !== 'ready', 'the loss of the connection')
  for (const result of ['a', 'b', 'c'].map(enqueue)) await t.rejects(withTimeout(result, 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  proxy.setDown(false)
  await waitUntil(() => enqueue('next').then(() => true, () => false), 'a message to be handled')
  await waitUntil(() => completed.length > 0, 'the command of the handled message')
  t.strictSame([completed, handled], [['next'], ['next']])
})

t.test('a repeat whose enqueueing timed out does not keep its key in Redis', needsRedis, async t => {
  const [redis, { sessions: nodeA }, { sessions: nodeB, pauseReplies }] = await openTwoNodes(t, { maxIdempotencyKeys: 0 })
  const session = await openSession(nodeA)
  const { messageQueue } = session[kInternals]
  const remote = await findSession(nodeB, session)
  const { gate, started, handle, running } = startGatedMessage(session)
  await withTimeout(started, 'the first message')
  pauseReplies(true)
  await t.rejects(withTimeout(Promise.resolve(remote[kInternals].messageQueue.enqueue(createMessage('a', handle('repeat')))), 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  pauseReplies(false)
  gate.resolve()
  await running
  const readRecords = (): Promise<unknown> => redis.sendCommand('HVALS', `{sse}:s:${session.id}:records`)
  await waitUntil(async () => /^s \S+ ;/.test(String(await readRecords())), 'the node with the repeat to be removed')
  await messageQueue.enqueue(createMessage('b', handle('b')))
  await waitUntil(async () => String(await readRecords()) === '', 'the keys to be dropped')
})

t.test('the key of a repeat that is sent when the response is published is not kept either', needsRedis, async t => {
  const [redis, { sessions: nodeA }, { sessions: nodeB, client, pauseReplies }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const down = await attachMemoryStream(nodeB, await openSession(nodeB))
  const { gate, started, handle, running } = startGatedMessage(session)
  await withTimeout(started, 'the first message')
  pauseReplies(true)
  await t.rejects(withTimeout(Promise.resolve(remote[kInternals].messageQueue.enqueue(createMessage('a', handle('repeat')))), 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  pauseReplies(false)
  // Redis has executed all earlier commands of the node.
  await remote.update({})
  const [sent, published] = [deferred(), deferred()]
  interceptStoreCommands(client, async storeCommands => {
    if (!storeCommands.some(({ operation }) => operation === 'enqueue')) return
    sent.resolve()
    await published.promise
  })
  const repeat = remote[kInternals].messageQueue.enqueue(createMessage('a', handle('repeat')))
  await withTimeout(sent.promise, 'the repeat')
  gate.resolve()
  await running
  // When the broadcast arrives, the response has been published.
  await nodeA.broadcast('message', 1)
  await waitUntil(() => down.messages().length === 1, 'the broadcast')
  published.resolve()
  t.match(await repeat, { replayed: true, response: { body: 'a' } })
  await waitUntil(async () => /^s \S+ ;/.test(String(await redis.sendCommand('HVALS', `{sse}:s:${session.id}:records`))), 'the node with the repeat to be removed')
})

t.test('the key of a repeat is not kept if the other messages of its batch do not fit in the queue', needsRedis, async t => {
  const [redis, { sessions: nodeA }, { sessions: nodeB, pausePublications }] = await openTwoNodes(t, { maxWaitingMessages: 2 })
  const session = await openSession(nodeA)
  const { messageQueue } = session[kInternals]
  const remote = await findSession(nodeB, session)
  const [gates, { handle }] = [[deferred(), deferred(), deferred()], recordHandlers()]
  const started = [deferred(), deferred()]
  const [a, b] = ['a', 'b'].map((key, index) => messageQueue.enqueue({
    ...createMessage(key, async () => {
      started[index]?.resolve()
      await gates[index]?.promise
      if (key === 'b') throw new Error('refused')
      return createResponse(key)
    }),
    isConcurrent: true
  }))
  // Otherwise the messages of the other node could reach Redis first.
  await withTimeout(Promise.all(started.map(({ promise }) => promise)), 'the handlers')
  const repeats = (await remote[kInternals].messageQueue.enqueueAll([createMessage('a', handle('a')), createMessage('b', handle('b'))]))
    .map(repeat => t.rejects(withTimeout(repeat, 'the rejection'), { code: 'FST_SSE_TOO_MANY_WAITING' }))
  pausePublications(true)
  for (const gate of gates.slice(0, 2)) gate.resolve()
  await a
  await t.rejects(Promise.resolve(b), { message: 'refused' })
  const others = ['c', 'd', 'e'].map(key => messageQueue.enqueue(createMessage(key, async () => {
    await gates[2]?.promise
    return createResponse(key)
  })))
  await waitUntil(async () => (await readQueue(redis, session.id)).length === 3, 'the queue to be full')
  pausePublications(false)
  await Promise.all(repeats)
  await waitUntil(async () => /^s \S+ ;/.test(String(await redis.sendCommand('HGET', `{sse}:s:${session.id}:records`, 'a'))), 'the node with the repeat to be removed')
  gates[2]?.resolve()
  await Promise.all(others)
})

t.test('a repeat that is rejected does not end the wait of another one in the same process', needsRedis, async t => {
  const [, { sessions: nodeA }, { sessions: nodeB, pauseReplies, pausePublications }] = await openTwoNodes(t, { maxIdempotencyKeys: 0 })
  const session = await openSession(nodeA)
  const { messageQueue } = (await findSession(nodeB, session))[kInternals]
  const { gate, started, handled, handle, running } = startGatedMessage(session)
  await withTimeout(started, 'the first message')
  const repeat = messageQueue.enqueue(createMessage('a', handle('repeat')))
  // The repeat has arrived when a later call on the same connection has settled.
  await (await findSession(nodeB, session)).update({})
  pauseReplies(true)
  pausePublications(true)
  const rejected = t.rejects(withTimeout(Promise.resolve(messageQueue.enqueue(createMessage('a', handle('rejected')))), 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  gate.resolve()
  await running
  await rejected
  pauseReplies(false)
  await (await findSession(nodeB, session)).update({})
  await session[kInternals].messageQueue.enqueue(createMessage('b', handle('b')))
  pausePublications(false)
  t.match(await withTimeout(Promise.resolve(repeat), 'the repeat'), { replayed: true, response: { body: 'a' } })
  t.strictSame(handled, ['b'])
})

t.test('the key of a repeat is not kept if neither its first reply nor the notification of the response arrives', needsRedis, async t => {
  const [redis, { sessions: nodeA }, { sessions: nodeB, client, proxy, pausePublications }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const { gate, started, handle, running } = startGatedMessage(session)
  await withTimeout(started, 'the first message')
  const { waitForCommand, loseReply } = loseFirstReply(client, ({ operation }) => operation === 'enqueue')
  pausePublications(true)
  const repeat = remote[kInternals].messageQueue.enqueue(createMessage('a', handle('repeat')))
  const readRecord = async (): Promise<string> => String(await redis.sendCommand('HGET', `{sse}:s:${session.id}:records`, 'a'))
  await waitForCommand()
  await waitUntil(async () => !(await readRecord()).endsWith(';'), 'Redis to execute the command')
  gate.resolve()
  await running
  proxy.connections[1]?.client.resetAndDestroy()
  await loseReply()
  t.match(await withTimeout(Promise.resolve(repeat), 'the repeat'), { replayed: true, response: { body: 'a' } })
  await waitUntil(async () => /^s \S+ ;/.test(await readRecord()), 'the node with the repeat to be removed')
})

t.test('when the node of a message fails and its repeats wait on two nodes, one of them handles it', needsRedis, async t => {
  const options = [{ maxIdempotencyKeys: 0 }, { lease: 500 }] as const
  const [redis, { sessions: nodeA }, { sessions: nodeB, client }] = await openTwoNodes(t, ...options)
  const { sessions: nodeC, proxy } = await openProxiedNode(t, redis, ...options)
  const session = await openSession(nodeC)
  const { gate, started, handled, handle, running } = startGatedMessage(session)
  await withTimeout(started, 'the first message')
  const [onA, onB] = await Promise.all([nodeA, nodeB].map(async node => await findSession(node, session)))
  const [repeatA, repeatB] = [onA, onB].map((remote, index) => remote?.[kInternals].messageQueue.enqueue(createMessage('a', handle(`repeat ${index}`))))
  await Promise.all([onA?.update({}), onB?.update({})])
  const handledOnA = deferred()
  interceptStoreCommands(client, storeCommands => storeCommands.some(({ operation }) => operation === 'enqueue') ? handledOnA.promise : undefined)
  proxy.setDown(true)
  t.match(await withTimeout(Promise.resolve(repeatA), 'the repeat'), { replayed: false })
  await onA?.[kInternals].messageQueue.enqueue(createMessage('b', handle('b')))
  handledOnA.resolve()
  t.match(await withTimeout(Promise.resolve(repeatB), 'the other repeat'), { replayed: true, response: { body: 'repeat 0' } })
  t.strictSame(handled, ['repeat 0', 'b'])
  gate.resolve()
  await Promise.allSettled([running])
})

for (const maxIdempotencyKeys of [0, 1]) {
  t.test(`a response that a repeat waits for is kept in addition to maxIdempotencyKeys (${maxIdempotencyKeys})`, needsRedis, async t => {
    const [redis, { sessions: nodeA }, { sessions: nodeB, pausePublications }] = await openTwoNodes(t, { maxIdempotencyKeys })
    const session = await openSession(nodeA)
    const { messageQueue } = session[kInternals]
    const remote = await findSession(nodeB, session)
    const { gate, started, handle, running } = startGatedMessage(session)
    await withTimeout(started, 'the first message')
    const repeat = remote[kInternals].messageQueue.enqueue(createMessage('a', handle('repeat')))
    // The repeat has arrived when a later call on the same connection has settled.
    await remote.update({})
    pausePublications(true)
    gate.resolve()
    await running
    for (const key of ['b', 'c', 'd']) {
      await messageQueue.enqueue(createMessage(key, handle(key)))
      t.match(await messageQueue.enqueue(createMessage(key, handle(key))), { replayed: maxIdempotencyKeys > 0 }, key)
    }
    t.ok(Number(await redis.sendCommand('PTTL', `{sse}:s:${session.id}:record_order`)) > 0, 'the list has a TTL')
    pausePublications(false)
    t.match(await withTimeout(Promise.resolve(repeat), 'the repeat'), { replayed: true, response: { body: 'a' } })
    await waitUntil(async () => {
      await messageQueue.enqueue(createMessage('e', handle('e')))
      return await redis.sendCommand('HLEN', `{sse}:s:${session.id}:records`) === maxIdempotencyKeys
    }, 'the key to be dropped')
  })
}

t.test('a closing node rejects a repeat whose first message runs on another node', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions: nodeA } = await openProxiedNode(t, redis)
  const { sessions: nodeB, client } = await openProxiedNode(t, redis)
  const { sessions: nodeC } = await openProxiedNode(t, redis)
  const session = await openSession(nodeA)
  const { gate, started, handle, running } = startGatedMessage(session)
  await withTimeout(started, 'the first message')
  const [first = ''] = await readQueue(redis, session.id)
  const [repeat, other] = await (await findSession(nodeB, session))[kInternals].messageQueue.enqueueAll([createMessage('a', handle('first')), createMessage('b', handle('b'))])
  const sent = deferred()
  let isRequested = false
  interceptStoreCommands(client, storeCommands => {
    if (!storeCommands.some(({ operation }) => operation === 'enqueue')) return undefined
    isRequested = true
    return sent.promise
  })
  await redis.sendCommand('ZREM', '{sse}:nodes', first.slice(0, first.indexOf(' ')))
  const repeatOnNodeC = (await findSession(nodeC, session))[kInternals].messageQueue.enqueue(createMessage('a', async () => {
    await gate.promise
    return createResponse('node C')
  }))
  await waitUntil(async () => !(await readQueue(redis, session.id)).includes(first), 'the dead node to be detected')
  await waitUntil(() => isRequested, 'the retry')
  const closed = nodeB.close()
  sent.resolve()
  await t.rejects(withTimeout(repeat as Promise<unknown>, 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await t.rejects(withTimeout(other as Promise<unknown>, 'the other rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await closed
  gate.resolve()
  await Promise.all([running, repeatOnNodeC])
})

t.test('checks the lease of a node once per heartbeat, however many messages wait for it', needsRedis, async t => {
  const [redis, { sessions: nodeA }, { sessions: nodeB }] = await openTwoNodes(t)
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const { gate, handle, running } = startGatedMessage(session)
  const countLeaseChecks = async (): Promise<number> => Number(/calls=(\d+)/.exec((await redis.info('commandstats')).cmdstat_zscore ?? '')?.[1] ?? 0)
  const names = Array.from({ length: 20 }, (_, n) => `key ${n}`)
  const waiting = names.map(name => session[kInternals].messageQueue.enqueue(createMessage(name, handle(name))))
  await waitUntil(async () => (await readQueue(redis, session.id)).length === 21, 'the messages to be queued')
  const before = await countLeaseChecks()
  const repeats = remote[kInternals].messageQueue.enqueueAll([...names.map(name => createMessage(name, handle('repeat'))), createMessage(undefined, handle('last'))])
  await waitUntil(async () => (await readQueue(redis, session.id)).length === 22, 'the batch to be queued')
  t.ok(await countLeaseChecks() - before <= 3, 'one check, and one more per heartbeat')
  gate.resolve()
  await Promise.all([running, ...waiting, ...await repeats])
})

t.test('sends no commands while messages wait and nothing changes', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions, client } = await openProxiedNode(t, redis)
  const { sessions: otherSessions } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const { gate, handle, running } = startGatedMessage(session)
  const waiting = Array.from({ length: 20 }, (_, n) => session[kInternals].messageQueue.enqueue(createMessage(`key ${n}`, handle('waiting'))))
  await waitUntil(async () => (await readQueue(redis, session.id)).length === 21, 'the messages to be queued')
  const operations: string[] = []
  interceptStoreCommands(client, storeCommands => { operations.push(...storeCommands.map(({ operation }) => operation)) })
  for (let number = 2; number < 5; number++) {
    await openSession(otherSessions)
    await waitUntil(() => sessions.size === number, 'the next heartbeat')
  }
  t.strictSame(operations.filter(operation => operation !== 'heartbeat'), [])
  gate.resolve()
  await Promise.all([running, ...waiting])
})

t.test('starts no handler if the reply arrives after the lease has expired', needsRedis, async t => {
  const [redis, { sessions: nodeA, proxy }, { sessions: nodeB }] = await openTwoNodes(t, {}, { lease: 500 })
  const session = await openSession(nodeB)
  const local = await findSession(nodeA, session)
  const { handled, handle } = recordHandlers()
  const connections = [...proxy.connections]
  for (const { server } of connections) server.pause()
  const pausedAt = performance.now()
  const result = Promise.resolve(local[kInternals].messageQueue.enqueue(createMessage('key', handle('fenced'))))
    .then(({ replayed }) => replayed ? 'replayed' : 'handled', ({ code }) => code as string)
  await waitUntil(async () => (await readQueue(redis, session.id)).length === 1, 'the message to be queued')
  const [node = ''] = String(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'first')).split(' ')
  await redis.sendCommand('ZREM', '{sse}:nodes', node)
  t.match(await session[kInternals].messageQueue.enqueue(createMessage('key', handle('other node'))), { replayed: false })
  await waitUntil(() => performance.now() - pausedAt > 600, 'the end of the lease')
  for (const { server } of connections) server.resume()
  // It may have been sent again over a new connection, and then has the response of the other node.
  t.ok(['FST_SSE_STORE_UNAVAILABLE', 'replayed'].includes(await withTimeout(result, 'the result')))
  t.strictSame(handled, ['other node'])
})

t.test('starts no handler if the lease has ended during the checks before it, and none of the later messages of its batch', needsRedis, async t => {
  const [redis, nodeA, { sessions: nodeB }] = await openTwoNodes(t, {}, { lease: 500 })
  const session = await openSession(nodeB)
  const { handled, handle } = recordHandlers()
  const [checking, gate] = [deferred(), deferred()]
  const checked = createMessage('a', async assertMayStart => {
    checking.resolve()
    await gate.promise
    assertMayStart?.()
    return handle('fenced')()
  })
  const local = await findSession(nodeA.sessions, session)
  const results = await local[kInternals].messageQueue.enqueueAll([checked, createMessage('b', handle('fenced'))])
  await withTimeout(checking.promise, 'the checks')
  await pauseUntilExpired(redis, nodeA)
  for (const key of ['a', 'b']) t.match(await session[kInternals].messageQueue.enqueue(createMessage(key, handle(key))), { replayed: false })
  gate.resolve()
  for (const result of results) await t.rejects(withTimeout(result, 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  t.strictSame(handled, ['a', 'b'])
})

t.test('a message is handled when the node of the message before it fails', needsRedis, async t => {
  const [redis, { sessions: nodeA, proxy }, { sessions: nodeB }] = await openTwoNodes(t, {}, { lease: 500 })
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const { gate, started, handle, running } = startGatedMessage(session)
  await withTimeout(started, 'the first message')
  const next = Promise.resolve(remote[kInternals].messageQueue.enqueue(createMessage(undefined, handle('next'))))
  await waitUntil(async () => (await readQueue(redis, session.id)).length === 2, 'the message to be queued')
  proxy.setDown(true)
  t.match(await withTimeout(next, 'the next message'), { response: { body: 'next' } })
  gate.resolve()
  await running
})

t.test('drops the oldest stored responses if they have too many bytes, but handles no message again', needsRedis, async t => {
  const options = { maxResponseBytes: 3000, maxIdempotencyKeys: 4 }
  const [redis, { sessions: nodeA }, { sessions: nodeB }] = await openTwoNodes(t, options)
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const { handled, handle } = recordHandlers()
  const enqueue = async (key: string, body: string): Promise<unknown> => await remote[kInternals].messageQueue.enqueue(createMessage(key, () => {
    handle(key)()
    return createResponse(body)
  }))
  for (const key of ['a', 'b', 'c']) await enqueue(key, 'x'.repeat(1200))
  await t.rejects(enqueue('a', 'again'), { code: 'FST_SSE_RESPONSE_DROPPED', statusCode: 410 })
  for (const key of ['b', 'c']) t.match(await enqueue(key, 'again'), { replayed: true })
  // A response that is larger than the limit is not stored.
  await enqueue('d', 'x'.repeat(5000))
  await t.rejects(enqueue('d', 'again'), { code: 'FST_SSE_RESPONSE_DROPPED' })
  for (const key of ['b', 'c']) t.match(await enqueue(key, 'again'), { replayed: true })
  // The keys are limited, too.
  await enqueue('e', 'x')
  t.match(await enqueue('e', 'again'), { replayed: true })
  t.match(await enqueue('a', 'again'), { replayed: false })
  for (let n = 0; n < 10; n++) await enqueue(`key ${n}`, 'x'.repeat(1000))
  t.match(await enqueue('key 9', 'again'), { replayed: true })
  t.strictSame(handled.slice(0, 6), ['a', 'b', 'c', 'd', 'e', 'a'])
  t.ok(Number(await redis.sendCommand('HGET', `{sse}:s:${session.id}`, 'responseBytes')) <= 3000)
})

t.test('the client of a refused message gets the error when the key is free on all nodes', needsRedis, async t => {
  const [redis, { sessions, pauseReplies }] = await openTwoNodes(t)
  const session = await openSession(sessions)
  const [started, gate] = [deferred(), deferred()]
  let isSettled = false
  const refused = Promise.resolve(session[kInternals].messageQueue.enqueue(createMessage('a', async () => {
    started.resolve()
    await gate.promise
    throw new Error('refused')
  }))).finally(() => { isSettled = true })
  refused.catch(() => {})
  await withTimeout(started.promise, 'the message')
  pauseReplies(true)
  gate.resolve()
  await waitUntil(async () => await redis.sendCommand('EXISTS', `{sse}:s:${session.id}:records`) === 0, 'the removal of the key')
  t.equal(isSettled, false)
  pauseReplies(false)
  await t.rejects(withTimeout(refused, 'the error'), { message: 'refused' })
})

t.test('when the node of a concurrent message fails, its repeat is handled, and the message does not count any more', needsRedis, async t => {
  const [, { sessions: nodeA, proxy }, { sessions: nodeB }] = await openTwoNodes(t, { maxWaitingMessages: 1 }, { lease: 500 })
  const session = await openSession(nodeA)
  const remote = await findSession(nodeB, session)
  const [gate, started] = [deferred(), deferred()]
  const { handled, handle } = recordHandlers()
  const lost = Promise.resolve(session[kInternals].messageQueue.enqueue({
    ...createMessage('a', async () => {
      started.resolve()
      await gate.promise
      return createResponse('lost')
    }),
    isConcurrent: true
  }))
  lost.catch(() => {})
  await withTimeout(started.promise, 'the concurrent message')
  const repeat = Promise.resolve(remote[kInternals].messageQueue.enqueue({ ...createMessage('a', handle('repeat')), isConcurrent: true }))
  t.match(await remote[kInternals].messageQueue.enqueue(createMessage('b', handle('b'))), { response: { body: 'b' } })
  proxy.setDown(true)
  t.match(await withTimeout(repeat, 'the repeat'), { replayed: false, response: { body: 'repeat' } })
  const results = await remote[kInternals].messageQueue.enqueueAll([createMessage('c', handle('c')), createMessage('d', handle('d'))])
  await withTimeout(Promise.all(results), 'a full batch')
  t.strictSame(handled, ['b', 'repeat', 'c', 'd'])
  gate.resolve()
  await lost.catch(() => {})
})

t.test('what Redis keeps for messages has a TTL, also if it was empty in between', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const { messageQueue } = session[kInternals]
  await t.rejects(async () => await messageQueue.enqueue(createMessage('refused', () => { throw new Error('refused') })), { message: 'refused' })
  const { gate, started, running } = startGatedMessage(session)
  await started
  // Only messages that wait need the list.
  const waiting = messageQueue.enqueue(createMessage('waiting', () => createResponse('waiting')))
  await waitUntil(async () => (await readQueue(redis, session.id)).length === 2, 'the second message to wait')
  for (const part of ['queue', 'records']) t.ok(Number(await redis.sendCommand('PTTL', `{sse}:s:${session.id}:${part}`)) > 0, part)
  gate.resolve()
  await Promise.all([running, waiting])
})

t.test('Redis returns a large response to one repeat at a time', needsRedis, async t => {
  const { sessions, client } = await openProxiedNode(t, await startRedis(t))
  const session = await openSession(sessions)
  const { messageQueue } = session[kInternals]
  const gate = deferred()
  const body = 'x'.repeat(500_000)
  const first = messageQueue.enqueue(createMessage('a', async () => {
    await gate.promise
    return createResponse(body)
  }))
  const repeats = Array.from({ length: 10 }, () => messageQueue.enqueue(createMessage('a', () => createResponse('again'))))
  await session.update({})
  const counts = countReplies(client, body)
  const removals: string[] = []
  interceptStoreCommands(client, storeCommands => {
    for (const { operation, args } of storeCommands) if (operation === 'complete' && args[5] === 'w') removals.push(String(args[3]))
  })
  gate.resolve()
  await first
  for (const repeat of repeats) t.match(await withTimeout(Promise.resolve(repeat), 'the repeat'), { replayed: true })
  await session.update({})
  t.strictSame(counts.filter(count => count > 0), repeats.map(() => 1))
  t.strictSame(removals, ['a'], 'only the last one ends the wait of this process')
})

t.test('a response that is too large to store is not sent to Redis', needsRedis, async t => {
  const { sessions, client } = await openProxiedNode(t, await startRedis(t), { maxResponseBytes: 3000 })
  const session = await openSession(sessions)
  const responses: unknown[] = []
  interceptStoreCommands(client, storeCommands => {
    for (const { operation, args } of storeCommands) if (operation === 'complete') responses.push(args[5])
  })
  const body = 'ä'.repeat(1500)
  t.match(await session[kInternals].messageQueue.enqueue(createMessage('a', () => createResponse(body))), { response: { body } })
  await t.rejects(Promise.resolve(session[kInternals].messageQueue.enqueue(createMessage('a', () => createResponse('again')))), { code: 'FST_SSE_RESPONSE_DROPPED' })
  t.strictSame(responses, ['d'])
})

t.test('Redis keeps no responses of a closed session', needsRedis, async t => {
  const redis = await startRedis(t)
  const { sessions } = await openProxiedNode(t, redis)
  const session = await openSession(sessions)
  const { messageQueue } = session[kInternals]
  await messageQueue.enqueue(createMessage('a', async () => createResponse('a')))
  const countKeys = async (): Promise<number> => Number(await redis.sendCommand('EXISTS', ...[':records', ':record_order', ':queue'].map(suffix => `{sse}:s:${session.id}${suffix}`)))
  await waitUntil(async () => await countKeys() === 2, 'the response to be stored')
  await session.close()
  t.equal(await countKeys(), 0)
  await t.rejects(async () => { await messageQueue.enqueue(createMessage('a', async () => createResponse('again'))) }, { code: 'FST_SSE_SESSION_UNKNOWN' })
})

t.test('messages that wait for a tick in which they may start are not refused when the event loop is blocked meanwhile', needsRedis, async t => {
  const lease = 1000
  const { sessions } = await openProxiedNode(t, await startRedis(t), {}, { lease })
  const session = await openSession(sessions)
  const { handled, handle } = recordHandlers()
  const block = (): void => { Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, lease * 0.6) }
  // All start in the tick of the reply, except those above the limit. Then the event loop is blocked for more than half of the lease.
  const names = Array.from({ length: 100 }, (_, index) => String(index))
  const messages = names.map((name, index) => {
    const message = createMessage(undefined, () => {
      if (index === 0) process.nextTick(block)
      return handle(name)()
    })
    return { ...message, isConcurrent: true }
  })
  const results = await session[kInternals].messageQueue.enqueueAll(messages)
  await withTimeout(Promise.all(results), 'all responses')
  t.strictSame(handled, names)
})
