import t, { type Test } from 'tap'
import type { RunEvent } from '../../lib/index.js'
import { dataOf, follow, type RunResponse } from '../runs/support/run-client.js'
import { createFeed, type Feed } from '../runs/support/feed.js'
import { interceptStoreCommands, loseFirstReply, repeatFirstCommand } from '../support/redis-commands.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { openRunNode, openRunNodes, type RunNode } from './support/run-nodes.js'

const LEASE = 300

/** What a producer was called with, and the feed from which it takes its items. */
interface Call {
  readonly node: RunNode
  readonly input: unknown
  readonly events: readonly RunEvent[]
  readonly feed: Feed
}

/** Registers a restartable producer `work` on several nodes. Returns its calls, and a function that starts a run `a` on a node. */
function register (nodes: readonly RunNode[]) {
  const calls: Call[] = []
  const creators = new Map(nodes.map(node => [node, node.runs.restartable('work', (input: unknown, { events, signal }) => {
    const feed = createFeed()
    calls.push({ node, input, events, feed })
    return feed.producer({ signal })
  })]))
  const start = (node: RunNode, input: unknown = null): ReturnType<typeof node.runs.start> => node.runs.start('a', {}, (creators.get(node) as NonNullable<ReturnType<typeof creators.get>>)(input))
  const waitForCall = async (count: number): Promise<Call> => {
    await waitUntil(() => calls.length >= count, `the call ${count} of the producer`)
    return calls[count - 1] as Call
  }
  return { calls, start, waitForCall }
}

const finalData = ({ events }: RunResponse): unknown => JSON.parse(events.find(({ event }) => event === 'end')?.data ?? 'null')

/** Asserts that a reader has received all positions once, in order. */
function assertOrder (t: Test, { events }: RunResponse): void {
  const positions = events.map(({ id = '' }) => id)
  t.strictSame(positions, [...new Set(positions)])
}

t.test('when the node of a restartable producer fails, another one continues after the last event, and readers miss nothing', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t, { lease: LEASE })
  const nodeC = await openRunNode(t, redis, { lease: LEASE })
  const { calls, start, waitForCall } = register([nodeA, nodeB, nodeC])
  const run = await start(nodeA, { last: 4, at: new Date(0) })
  const first = await waitForCall(1)
  t.strictSame([first.input, first.events], [{ last: 4, at: '1970-01-01T00:00:00.000Z' }, []], 'the input is as after a restart')
  const reader = await follow(t, nodeB.runUrl)
  first.feed.add(1, { event: 'named', data: { n: 2 } })
  await reader.waitFor('{"n":2}')
  nodeA.proxy.setDown(true)
  const second = await waitForCall(2)
  t.not(second.node, nodeA)
  t.strictSame([second.input, second.events], [first.input, [{ event: undefined, data: 1 }, { event: 'named', data: { n: 2 } }]])
  second.feed.add(3)
  await reader.waitFor('3')
  first.feed.add('too late')
  first.feed.end()
  nodeA.proxy.setDown(false)
  await withTimeout(first.feed.closed, 'the end of the first producer')
  await waitUntil(async () => (await nodeA.runs.find('a').catch(() => undefined))?.status === 'running', 'the node')
  second.feed.add(4)
  await reader.waitFor('4')
  second.feed.end()
  t.equal(await reader.isComplete, true)
  t.strictSame(dataOf(reader), ['1', '{"n":2}', '3', '4'])
  t.strictSame(finalData(reader), { status: 'finished' })
  assertOrder(t, reader)
  t.equal(calls.length, 2, 'one node has restarted it')
  await waitUntil(() => run.status === 'finished', 'the end on the first node')
  t.strictSame(nodeA.logged().filter(({ level }) => level > 40), [])
})

t.test('the producer of a failed node stops as soon as the node knows that its run was restarted', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t, { lease: LEASE })
  const { start, waitForCall } = register([nodeA, nodeB])
  await start(nodeA)
  const first = await waitForCall(1)
  nodeA.proxy.setDown(true)
  const second = await waitForCall(2)
  const released = deferred()
  interceptStoreCommands(nodeA.client, commands => { if (commands.some(({ operation }) => operation === 'run_release')) released.resolve() })
  nodeA.proxy.setDown(false)
  await withTimeout(first.feed.closed, 'the end of the first producer')
  await withTimeout(released.promise, 'the node to give up the run')
  t.match(first.feed.signal()?.reason, { code: 'FST_SSE_RUN_OVER' })
  t.equal(second.feed.signal()?.aborted, false)
  second.feed.end()
})

t.test('a node that has lost its lease can restart its own run, and adds nothing of the earlier producer', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t, { lease: 2000 })
  const { start, waitForCall } = register([nodeA])
  await start(nodeA)
  const first = await waitForCall(1)
  first.feed.add(1)
  const reader = await follow(t, nodeB.runUrl)
  await reader.waitFor('1')
  nodeA.proxy.setDown(true)
  interceptStoreCommands(nodeA.client, async commands => {
    if (!commands.some(({ operation }) => operation === 'run_restart') || first.feed.signal()?.aborted === true) return
    // The earlier producer does not know yet that its node has lost the lease. Its command is executed after the restart.
    first.feed.add('too late')
    for (let tick = 0; tick < 3; tick++) await new Promise(resolve => { setImmediate(resolve) })
  })
  await waitUntil(async () => await redis.sendCommand('ZCARD', '{sse}:runs_released') === 1, 'the end of the lease')
  nodeA.proxy.setDown(false)
  const second = await waitForCall(2)
  await withTimeout(first.feed.closed, 'the end of the first producer')
  second.feed.add(2)
  second.feed.end()
  t.equal(await reader.isComplete, true)
  t.strictSame(second.events, [{ event: undefined, data: 1 }])
  t.strictSame(dataOf(reader), ['1', '2'])
  assertOrder(t, reader)
})

t.test('a run is lost if no node can restart it, or if a fourth node fails while it produces the run', needsRedis, async t => {
  const redis = await startRedis(t)
  const nodes: RunNode[] = []
  for (let index = 0; index < 5; index++) nodes.push(await openRunNode(t, redis, { lease: LEASE }))
  const [other, ...capable] = nodes as [RunNode, ...RunNode[]]
  const { calls, start, waitForCall } = register(capable)
  await start(capable[0] as RunNode)
  const alone = await (capable[0] as RunNode).runs.start('alone', {}, (capable[0] as RunNode).runs.restartable('other work', () => createFeed().producer({ signal: new AbortController().signal }))(null))
  const readers = [await follow(t, other.runUrl)]
  const found = await other.runs.find('alone')
  for (let failures = 1; failures <= 4; failures++) (await waitForCall(failures)).node.proxy.setDown(true)
  for (const reader of readers) t.equal(await reader.isComplete, true)
  t.strictSame(readers.map(finalData), [{ status: 'lost' }])
  t.equal(calls.length, 4)
  await waitUntil(() => found?.status === 'lost', 'the end of the other run')
  t.equal(alone.status, 'running', 'its node cannot know it yet')
  for (const node of capable) node.proxy.setDown(false)
  await waitUntil(() => alone.status === 'lost', 'the end of the other run on its node')
})

t.test('when a node closes, another one restarts its runs', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t, { lease: 5000 })
  const { start, waitForCall } = register([nodeA, nodeB])
  await start(nodeA)
  const first = await waitForCall(1)
  const reader = await follow(t, nodeB.runUrl)
  first.feed.add(1)
  await reader.waitFor('1')
  await nodeA.app.close()
  t.equal(first.feed.signal()?.aborted, true)
  const second = await waitForCall(2)
  t.strictSame(second.events, [{ event: undefined, data: 1 }])
  second.feed.add(2)
  second.feed.end()
  t.equal(await reader.isComplete, true)
  t.strictSame([...dataOf(reader), finalData(reader)], ['1', '2', { status: 'finished' }])
  t.strictSame(nodeA.logged().filter(({ level }) => level > 30), [])
})

t.test('a run whose start has failed continues if another node has restarted it', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t, { lease: LEASE })
  const { start, waitForCall } = register([nodeA, nodeB])
  // Before the command is sent for the first time: ioredis keeps it while it reconnects.
  const lost = loseFirstReply(nodeA.client, ({ operation }) => operation === 'run_cancel')
  nodeA.proxy.connections[0]?.server.pause()
  const started = start(nodeA)
  await waitUntil(async () => await nodeB.runs.find('a') !== undefined, 'the start to be executed')
  nodeA.proxy.setDown(true)
  await t.rejects(started, { code: 'FST_SSE_STORE_UNAVAILABLE' })
  const { node, feed } = await waitForCall(1)
  t.equal(node, nodeB)
  const reader = await follow(t, nodeB.runUrl)
  nodeA.proxy.setDown(false)
  await lost.waitForCommand()
  // Without waiting for a retry: ioredis may have sent a copy that it had kept while it reconnected.
  lost.loseReplyNow()
  feed.add(1)
  feed.end()
  t.equal(await reader.isComplete, true)
  t.strictSame([dataOf(reader), finalData(reader)], [['1'], { status: 'finished' }])
  t.match(await nodeB.runs.find('a'), { status: 'finished' })
})

t.test('a run that waits for a restart is found by its name, and can be stopped', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t, { lease: 1000 })
  const work = nodeA.runs.restartable('work', () => createFeed().producer({ signal: new AbortController().signal }))
  const run = await nodeA.runs.start('a', {}, work(null))
  await nodeA.app.close()
  t.equal((await nodeB.runs.start('a', {}, createFeed().producer)).id, run.id)
  await (await nodeB.runs.find('a'))?.stop('user')
  t.match(await nodeB.runs.find('a'), { status: 'stopped', reason: 'user' })
})

t.test('a restart that Redis does not execute, whose reply is lost, or whose log cannot be read, is repeated', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t, { lease: 5000 })
  const { start, waitForCall } = register([nodeA, nodeB])
  await start(nodeA)
  const first = await waitForCall(1)
  first.feed.add(1)
  const reader = await follow(t, nodeB.runUrl)
  await reader.waitFor('1')
  reader.abort()
  const lost = loseFirstReply(nodeB.client, ({ operation }) => operation === 'run_restart')
  let blocked = 'run_restart'
  interceptStoreCommands(nodeB.client, commands => {
    if (blocked === 'run_restart' && commands.some(({ operation }) => operation === 'run_release')) blocked = 'run_find'
    return commands.some(({ operation }) => operation === blocked) ? Promise.reject(new Error('Command timed out')) : undefined
  })
  await nodeA.app.close()
  await lost.waitForCommand()
  await lost.loseReply()
  await waitUntil(() => nodeB.logged().some(({ msg }) => msg === 'a run could not be restarted'), 'the failure')
  blocked = ''
  const second = await waitForCall(2)
  t.strictSame(second.events, [{ event: undefined, data: 1 }])
  second.feed.end()
  await waitUntil(async () => (await nodeB.runs.find('a'))?.status === 'finished', 'the end')
})

t.test('a producer that is restarted for a run that Redis has lost meanwhile is aborted', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t)
  const { start, waitForCall } = register([nodeA, nodeB])
  const run = await start(nodeA)
  ;(await waitForCall(1)).feed.add(1)
  const reader = await follow(t, nodeB.runUrl)
  await reader.waitFor('1')
  reader.abort()
  let isRestarted = false
  interceptStoreCommands(nodeB.client, async commands => {
    if (isRestarted && commands.some(({ operation }) => operation === 'run_find')) await redis.sendCommand('DEL', `{sse}:r:${run.id}`)
    isRestarted ||= commands.some(({ operation }) => operation === 'run_restart')
  })
  await nodeA.app.close()
  const { feed, events } = await waitForCall(2)
  t.strictSame(events, [])
  feed.add(2)
  await waitUntil(() => feed.signal()?.aborted === true, 'the end of the producer')
})

t.test('only the first of two nodes restarts a run', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t)
  const nodeC = await openRunNode(t, redis)
  const { calls, start, waitForCall } = register([nodeA, nodeB, nodeC])
  await start(nodeA)
  await waitForCall(1)
  const isRestart = ({ operation }: { readonly operation: string }): boolean => operation === 'run_restart'
  const [sent, gate] = [deferred(), deferred()]
  // The slower node has seen that the run can be restarted before the other one restarts it.
  interceptStoreCommands(nodeC.client, async commands => {
    if (!commands.some(isRestart)) return
    sent.resolve()
    await gate.promise
  })
  interceptStoreCommands(nodeB.client, commands => commands.some(isRestart) ? sent.promise : undefined)
  await nodeA.app.close()
  const second = await waitForCall(2)
  t.equal(second.node, nodeB)
  gate.resolve()
  t.equal((await nodeC.runs.find('a'))?.status, 'running')
  second.feed.end()
  await waitUntil(async () => (await nodeC.runs.find('a'))?.status === 'finished', 'the end')
  t.equal(calls.length, 2)
})

t.test('a late copy of a restart that came too late does not take the run from a node that can restart it', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t)
  const nodeC = await openRunNode(t, redis)
  const { start, waitForCall } = register([nodeA, nodeB, nodeC])
  await start(nodeA)
  await waitForCall(1)
  const isRestart = ({ operation }: { readonly operation: string }): boolean => operation === 'run_restart'
  const executeAgain = repeatFirstCommand(nodeC.client, redis, isRestart)
  const [sent, ...gates] = [deferred(), deferred(), deferred()]
  const [tooLate, released] = gates as [typeof sent, typeof sent]
  let restarts = 0
  interceptStoreCommands(nodeC.client, async commands => {
    if (!commands.some(isRestart)) return
    sent.resolve()
    await gates[restarts++]?.promise
  })
  interceptStoreCommands(nodeB.client, commands => commands.some(isRestart) ? sent.promise : undefined)
  await nodeA.app.close()
  t.equal((await waitForCall(2)).node, nodeB)
  tooLate.resolve()
  await nodeC.runs.find('a')
  await nodeB.app.close()
  await executeAgain()
  released.resolve()
  const third = await waitForCall(3)
  t.equal(third.node, nodeC)
  third.feed.end()
  await waitUntil(async () => (await nodeC.runs.find('a'))?.status === 'finished', 'the end')
})

t.test('a node that learns of a loss of data from the reply to a restart does not end this run', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t)
  const { start, waitForCall } = register([nodeA, nodeB])
  await start(nodeA)
  await waitForCall(1)
  interceptStoreCommands(nodeB.client, async commands => {
    if (!commands.some(({ operation }) => operation === 'run_restart')) return
    // The same as when another node has found out that Redis has lost data.
    const position = String((Date.now() + 1000) * 1000)
    await redis.sendCommand('HSET', '{sse}', 'position', position, 'rollbackPosition', position)
  })
  await nodeA.app.close()
  const { feed } = await waitForCall(2)
  feed.end()
  await waitUntil(async () => (await nodeB.runs.find('a'))?.status === 'finished', 'the end')
})

t.test('a node that has released a run, which Redis has lost, releases it again', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t)
  const { start, waitForCall } = register([nodeA, nodeB])
  const { id } = await start(nodeA)
  await waitForCall(1)
  let isLost = false
  interceptStoreCommands(nodeB.client, async commands => {
    if (isLost || !commands.some(({ operation }) => operation === 'run_restart')) return
    isLost = true
    // The same state as before the release.
    const [nodeId] = await redis.sendCommand('ZRANGE', '{sse}:nodes', '0', '-1') as [string]
    await redis.sendCommand('ZREM', '{sse}:runs_released', id)
    await redis.sendCommand('HSET', `{sse}:r:${id}`, 'owner', nodeId)
    await redis.sendCommand('ZADD', `{sse}:runs:${nodeId}`, '0', id)
  })
  await nodeA.app.close()
  const { feed } = await waitForCall(2)
  feed.end()
  await waitUntil(async () => (await nodeB.runs.find('a'))?.status === 'finished', 'the end')
})
