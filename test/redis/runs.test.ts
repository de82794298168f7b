import t from 'tap'
import { dataOf, follow, type RunResponse } from '../runs/support/run-client.js'
import { createFeed } from '../runs/support/feed.js'
import { openStream, postMessage } from '../support/http-client.js'
import { matchList } from '../support/match-list.js'
import { interceptStoreCommands } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { isEnd, partsOf } from '../support/streaming-handlers.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import { openRunNode, openRunNodes } from './support/run-nodes.js'

const finalData = ({ events }: RunResponse): unknown => JSON.parse(events.find(({ event }) => event === 'end')?.data ?? 'null')

const gapsOf = ({ events }: RunResponse): unknown[] => events.filter(({ event }) => event === 'gap').map(({ data }) => (JSON.parse(data) as { reason: unknown }).reason)

/** Waits until all readers have received the end, and returns what each has received. */
async function readAll (readers: readonly RunResponse[]): Promise<unknown[]> {
  for (const reader of readers) if (!await reader.isComplete) throw new Error('A response was aborted')
  return readers.map(reader => [...dataOf(reader), finalData(reader)])
}

t.test('readers on two nodes start at the beginning, at a cursor, or now, and receive a stop on the other node', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t)
  const first = await follow(t, nodeA.runUrl, { method: 'POST' })
  nodeA.feed.add(1)
  const { id = '' } = await first.waitFor('1')
  nodeA.feed.add(2)
  await first.waitFor('2')
  const readers = [first]
  for (const { runUrl } of [nodeA, nodeB]) {
    readers.push(await follow(t, runUrl), await follow(t, runUrl, { headers: { 'last-event-id': id } }), await follow(t, `${runUrl}?from=now`))
  }
  nodeA.feed.add(3)
  for (const reader of readers) await reader.waitFor('3')
  t.equal((await nodeB.runs.start('a', {}, createFeed().producer)).id, id.slice(0, 24), 'a start attaches on every node')
  t.equal((await fetch(nodeB.runUrl, { method: 'DELETE' })).status, 204)
  const end = { status: 'stopped', reason: 'user' }
  const [all, late, now] = [['1', '2', '3', end], ['2', '3', end], ['3', end]]
  t.strictSame(await readAll(readers), [all, all, late, now, all, late, now])
  await withTimeout(nodeA.feed.closed, 'the end of the producer')
  t.match(nodeA.feed.signal()?.reason, { code: 'FST_SSE_RUN_OVER' })
  const again = await follow(t, nodeA.runUrl, { headers: { 'last-event-id': readers[4]?.lastEventId() ?? '' } })
  t.equal(again.status, 204, 'a client that has received the end stops')
})

t.test('a run that is found on another node shows how it has ended, also without a reader there', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t)
  const run = await nodeA.runs.start('a', {}, nodeA.feed.producer)
  const found = await nodeB.runs.find('a')
  t.equal(found?.status, 'running')
  nodeA.feed.end()
  await waitUntil(() => found?.status === 'finished', 'the end on the other node')
  t.equal(run.status, 'finished')
})

t.test('a node whose last reader has left does not receive the entries any more, and a later reader gets all of them', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t)
  const run = await nodeA.runs.start('a', {}, nodeA.feed.producer)
  const countReaderNodes = async (): Promise<number> => String(await redis.sendCommand('HGET', `{sse}:r:${run.id}`, 'readerNodes') ?? '').split(',').length - 1
  const readers = [await follow(t, nodeA.runUrl), await follow(t, nodeB.runUrl)]
  nodeA.feed.add(1)
  for (const reader of readers) await reader.waitFor('1')
  t.equal(await countReaderNodes(), 2)
  readers[1]?.abort()
  await waitUntil(async () => await countReaderNodes() === 1, 'the removal of one node')
  readers[0]?.abort()
  await waitUntil(async () => await countReaderNodes() === 0, 'the removal of the other node')
  nodeA.feed.add(2)
  const later = await follow(t, nodeB.runUrl)
  await later.waitFor('2')
  nodeA.feed.end()
  t.strictSame(await readAll([later]), [['1', '2', { status: 'finished' }]])
})

t.test('after a restart of Redis with its data, a run continues, and its readers miss nothing', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t, {}, { durable: true })
  const readers = [await follow(t, nodeA.runUrl, { method: 'POST' }), await follow(t, nodeB.runUrl)]
  nodeA.feed.add(1)
  for (const reader of readers) await reader.waitFor('1')
  await redis.kill()
  await redis.start()
  nodeA.feed.add(2)
  nodeA.feed.end()
  t.strictSame(await readAll(readers), [['1', '2', { status: 'finished' }], ['1', '2', { status: 'finished' }]])
})

t.test('when Redis has lost all its data, readers get a gap and the outcome lost, and the producer stops', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t)
  const readers = [await follow(t, nodeA.runUrl, { method: 'POST' }), await follow(t, nodeB.runUrl)]
  nodeA.feed.add(1)
  for (const reader of readers) await reader.waitFor('1')
  const unread = createFeed()
  const other = await nodeA.runs.start('b', {}, unread.producer)
  await redis.sendCommand('FLUSHALL')
  for (const reader of readers) {
    t.equal(await reader.isComplete, true)
    t.strictSame(gapsOf(reader), ['store'])
    t.strictSame(finalData(reader), { status: 'lost' })
  }
  await withTimeout(nodeA.feed.closed, 'the end of the producer')
  await withTimeout(unread.closed, 'the end of the producer without readers')
  t.equal(other.status, 'lost')
  t.equal(await nodeB.runs.find('a'), undefined)
  t.equal((await fetch(nodeA.runUrl)).status, 404)
})

t.test('when Redis has no memory left, a run fails, its readers receive the outcome, and no run can start', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t)
  const readers = [await follow(t, nodeA.runUrl, { method: 'POST' }), await follow(t, nodeB.runUrl)]
  nodeA.feed.add(1)
  for (const reader of readers) await reader.waitFor('1')
  await redis.sendCommand('CONFIG', 'SET', 'maxmemory', '1')
  nodeA.feed.add(2)
  t.strictSame(await readAll(readers), [['1', { status: 'failed' }], ['1', { status: 'failed' }]])
  matchList(t, nodeA.logged().filter(({ level }) => level > 30), [{ msg: 'a run has failed', err: { code: 'FST_SSE_STORE_UNAVAILABLE' } }])
  await t.rejects(nodeB.runs.start('b', {}, createFeed().producer), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await redis.sendCommand('CONFIG', 'SET', 'maxmemory', '0')
  await waitUntil(async () => await nodeB.runs.start('b', {}, createFeed().producer).then(() => true, () => false), 'the start of a run')
})

t.test('a run that could not be ended while Redis did not reply ends afterwards', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t, { lease: 60_000 })
  const readers = [await follow(t, nodeA.runUrl, { method: 'POST' }), await follow(t, nodeB.runUrl)]
  nodeA.feed.add(1)
  for (const reader of readers) await reader.waitFor('1')
  redis.pause()
  const started = nodeB.runs.start('b', {}, createFeed().producer)
  const stopped = nodeB.runs.find('a').then(run => run?.stop())
  nodeA.feed.end()
  await t.rejects(started, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await t.rejects(stopped, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await waitUntil(() => nodeA.logged().some(({ msg }) => msg === 'the end of a run could not be stored'), 'the log line')
  redis.resume()
  t.strictSame(await readAll(readers), [['1', { status: 'finished' }], ['1', { status: 'finished' }]])
  const next = await nodeA.runs.start('b', { reuse: 'never' }, createFeed().producer)
  t.equal(next.status, 'running', 'the start that has failed has left no run')
})

t.test('a run whose start has failed is removed, and a repeat starts it', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t)
  nodeA.proxy.connections[0]?.server.pause()
  const started = nodeA.runs.start('a', {}, createFeed().producer)
  await waitUntil(async () => await nodeB.runs.find('a') !== undefined, 'the start to be executed')
  const reader = await follow(t, nodeB.runUrl)
  await t.rejects(started, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  nodeA.proxy.connections[0]?.server.resume()
  await reader.isComplete
  t.strictSame(finalData(reader), { status: 'lost' })
  await waitUntil(async () => await nodeB.runs.find('a') === undefined, 'the run to be removed')
  t.match(await nodeB.runs.start('a', { reuse: 'kept' }, createFeed().producer), { status: 'running' })
})

t.test('a run of a failed node that no heartbeat has ended yet does not keep its name', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t)
  const run = await nodeA.runs.start('a', {}, createFeed().producer)
  const [owner = ''] = await redis.sendCommand('HMGET', `{sse}:r:${run.id}`, 'owner') as string[]
  await redis.sendCommand('ZREM', '{sse}:nodes', owner)
  t.match(await nodeB.runs.start('a', { reuse: 'never' }, createFeed().producer), { status: 'running' })
})

t.test('after a loss of publications, readers receive what they have missed, and a producer its stop', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t)
  const reader = await follow(t, nodeB.runUrl, { method: 'POST' })
  nodeB.feed.add(1)
  await reader.waitFor('1')
  const unread = createFeed()
  await nodeB.runs.start('b', {}, unread.producer)
  nodeB.proxy.connections[1]?.server.pause()
  nodeB.feed.add(2)
  await (await nodeA.runs.find('b'))?.stop()
  t.strictSame(dataOf(reader), ['1'])
  nodeB.proxy.connections[1]?.client.resetAndDestroy()
  await withTimeout(unread.closed, 'the end of the producer')
  await reader.waitFor('2')
  nodeB.feed.end()
  t.strictSame(await readAll([reader]), [['1', '2', { status: 'finished' }]])
})

t.test('a producer that adds to a run before the message of its stop has arrived ends without an error', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t)
  const run = await nodeA.runs.start('a', {}, nodeA.feed.producer)
  const [, publications] = nodeA.proxy.connections
  publications?.server.pause()
  await (await nodeB.runs.find('a'))?.stop('user')
  nodeA.feed.add(1)
  await withTimeout(nodeA.feed.closed, 'the end of the producer')
  publications?.server.resume()
  await waitUntil(() => run.status === 'stopped', 'the end')
  t.strictSame(nodeA.logged().filter(({ level }) => level > 30), [])
})

t.test('a run whose end was lost by Redis ends as lost', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t)
  const feed = createFeed()
  const running = await nodeA.runs.start('running', {}, feed.producer)
  const ended = await nodeA.runs.start('ended', {}, nodeA.feed.producer)
  const rollBack = await redis.snapshot()
  nodeA.feed.add(1)
  nodeA.feed.end()
  await waitUntil(() => ended.status === 'finished', 'the end')
  await rollBack()
  await waitUntil(async () => (await nodeB.runs.find('ended').catch(() => undefined))?.status === 'lost', 'the end after the rollback')
  t.equal((await nodeB.runs.find('running'))?.status, 'running')
  feed.end()
  await waitUntil(() => running.status === 'finished', 'the end of the other run')
})

t.test('a node that cannot reach Redis ends its responses, so that clients continue on another node', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t, { lease: 200 })
  const local = await follow(t, nodeA.runUrl, { method: 'POST' })
  nodeA.feed.add(1)
  await local.waitFor('1')
  nodeA.proxy.setDown(true)
  t.equal(await local.isComplete, false)
  const other = await follow(t, nodeB.runUrl, { headers: { 'last-event-id': local.lastEventId() } })
  t.strictSame(await readAll([other]), [[{ status: 'lost' }]])
  nodeA.proxy.setDown(false)
  await withTimeout(nodeA.feed.closed, 'the end of the producer')
})

t.test('a run that was running when all nodes failed ends when another node starts', needsRedis, async t => {
  const redis = await startRedis(t)
  const nodeA = await openRunNode(t, redis, { lease: 200 })
  await nodeA.runs.start('a', {}, nodeA.feed.producer)
  nodeA.proxy.setDown(true)
  const nodeB = await openRunNode(t, redis, { lease: 200 })
  t.strictSame(await readAll([await follow(t, nodeB.runUrl)]), [[{ status: 'lost' }]])
})

t.test('all runs of a failed node end, and all that have expired are removed, also if there are many', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t, { lease: 1000 })
  const feeds: Array<ReturnType<typeof createFeed>> = []
  const found: Array<Awaited<ReturnType<typeof nodeB.runs.find>>> = []
  // In portions, so that a slow machine executes each within the time of a command.
  while (feeds.length < 1200) {
    const portion = Array.from({ length: 100 }, createFeed)
    found.push(...await Promise.all(portion.map(async ({ producer }, n) => {
      const name = String(feeds.length + n)
      await nodeA.runs.start(name, { keep: 0 }, producer)
      return await nodeB.runs.find(name)
    })))
    feeds.push(...portion)
  }
  nodeA.proxy.setDown(true)
  await waitUntil(() => found.every(run => run?.status === 'lost'), 'the ends')
  await waitUntil(async () => await redis.sendCommand('ZCARD', '{sse}:runs') === 0, 'the removal')
  t.strictSame(await redis.sendCommand('KEYS', '{sse}:r*'), [], 'nothing is left of them')
  nodeA.proxy.setDown(false)
  for (const feed of feeds) feed.end()
})

t.test('nodes keep their leases if Redis has evicted a run of a failed node', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t, { lease: 200 })
  const run = await nodeA.runs.start('a', {}, nodeA.feed.producer)
  const producers = (): Promise<unknown> => redis.sendCommand('ZRANGE', '{sse}:producers', '0', '-1')
  t.equal((await producers() as string[]).length, 1)
  nodeA.proxy.setDown(true)
  await redis.sendCommand('DEL', `{sse}:r:${run.id}`)
  await waitUntil(async () => (await producers() as string[]).length === 0, 'the removal of the failed node')
  t.equal((await nodeB.runs.start('a', {}, createFeed().producer)).status, 'running')
  t.equal(await redis.sendCommand('ZCARD', '{sse}:runs'), 1)
})

t.test('a run that is found while publications are lost shows its end, and its readers receive everything', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t)
  await nodeA.runs.start('a', {}, nodeA.feed.producer)
  const unread = await nodeA.runs.start('b', {}, createFeed().producer)
  const reader = await follow(t, nodeB.runUrl)
  nodeA.feed.add(1)
  await reader.waitFor('1')
  await nodeB.runs.find('b')
  const [, publications] = nodeB.proxy.connections
  publications?.server.pause()
  nodeA.feed.add(2)
  await unread.stop()
  nodeA.feed.end()
  await waitUntil(async () => (await nodeA.runs.find('a'))?.status === 'finished', 'the end')
  const found = ['a', 'b', 'unknown'].map(name => nodeB.runs.find(name))
  // The replies arrive, but not their marks among the publications.
  await nodeB.client.ping()
  publications?.client.resetAndDestroy()
  t.strictSame((await Promise.all(found)).map(run => run?.status), ['finished', 'stopped', undefined])
  t.strictSame(await readAll([reader]), [['1', '2', { status: 'finished' }]])
})

t.test('a reader whose log cannot be read gets 503, and a later one gets everything', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t)
  const run = await nodeA.runs.start('a', {}, nodeA.feed.producer)
  let isBlocked = true
  interceptStoreCommands(nodeB.client, commands => isBlocked && commands.some(({ operation, args }) => operation === 'read' && args[1] === 'run') ? new Promise(() => {}) : undefined)
  nodeA.feed.add(1)
  nodeA.feed.end()
  await waitUntil(() => run.status === 'finished', 'the end')
  t.equal((await fetch(nodeB.runUrl)).status, 503)
  isBlocked = false
  nodeB.proxy.connections[0]?.client.resetAndDestroy()
  await waitUntil(async () => (await fetch(nodeB.runUrl)).status === 200, 'Redis')
  t.strictSame(await readAll([await follow(t, nodeB.runUrl)]), [['1', { status: 'finished' }]])
})

t.test('a run that is removed before a reader has read its log is unknown', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t, { plugin: { maxRuns: 1 } })
  const run = await nodeA.runs.start('a', {}, () => [1])
  await waitUntil(() => run.status === 'finished', 'the end')
  interceptStoreCommands(nodeB.client, async commands => {
    if (commands.some(({ operation, args }) => operation === 'read' && args[1] === 'run')) await nodeA.runs.start('b', {}, createFeed().producer)
  })
  t.match(await (await fetch(nodeB.runUrl)).json(), { code: 'FST_SSE_RUN_UNKNOWN' })
})

t.test('while Redis does not respond, producers, followers and streaming handlers wait, and then continue without a loss', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t, { lease: 30_000 })
  const stream = await openStream(t, nodeB.url)
  const values = createFeed()
  nodeA.sessions.handle('values', (_session, _data, { signal }) => values.producer({ signal }))
  const run = await nodeA.runs.start('a', {}, nodeA.feed.producer)
  const readers = [await follow(t, nodeA.runUrl), await follow(t, nodeB.runUrl)]
  const session = await nodeA.sessions.find(stream.sessionId)
  const followed = session?.follow(run)
  t.equal((await postMessage(nodeA.url, stream.sessionId, {}, { event: 'values', key: 'm' })).status, 202)
  for (const feed of [nodeA.feed, values]) feed.add(1)
  for (const reader of readers) await reader.waitFor('1')
  const pausedAt = performance.now()
  redis.pause()
  for (const feed of [nodeA.feed, values]) feed.add(2, 3)
  await waitUntil(() => performance.now() - pausedAt > 3000, 'three seconds, longer than a call may take')
  redis.resume()
  for (const feed of [nodeA.feed, values]) feed.add(4)
  await waitUntil(() => partsOf(stream).filter(part => (part as { data?: unknown }).data === 4).length === 2, 'the last parts')
  for (const feed of [nodeA.feed, values]) feed.end()
  t.strictSame(await readAll(readers), readers.map(() => ['1', '2', '3', '4', { status: 'finished' }]))
  t.strictSame(await followed, { status: 'finished' })
  await waitUntil(() => stream.events.filter(isEnd).length === 2, 'both ends')
  const parts = partsOf(stream) as Array<{ run?: string, message?: string, data?: unknown, end?: unknown }>
  for (const name of ['run', 'message'] as const) {
    t.strictSame(parts.filter(part => name in part).map(({ data, end }) => data ?? end), [1, 2, 3, 4, { status: 'finished' }], name)
  }
})

t.test('nothing is sent after the end of a handler, or of its session, that another node has stored', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t)
  for (const close of [false, true]) {
    const stream = await openStream(t, nodeB.url)
    const values = createFeed()
    nodeA.sessions.handle(`values ${close}`, (_session, _data, { signal }) => values.producer({ signal }))
    await postMessage(nodeA.url, stream.sessionId, {}, { event: `values ${close}`, key: 'm' })
    values.add(1)
    await stream.waitFor(({ event }) => event === 'part')
    const publications = nodeA.proxy.connections[1]?.server
    publications?.pause()
    if (close) await (await nodeB.sessions.find(stream.sessionId))?.close()
    else await postMessage(nodeB.url, stream.sessionId, { message: 'm' }, { event: 'part' })
    values.add(2)
    await withTimeout(values.closed, 'the end of the generator')
    publications?.resume()
    await waitUntil(() => stream.events.some(event => close ? event.event === 'close' : isEnd(event)), 'the end')
    t.strictSame(partsOf(stream), close ? [{ message: 'm', data: 1 }] : [{ message: 'm', data: 1 }, { message: 'm', end: { status: 'stopped' } }])
  }
})
