import t, { type Test } from 'tap'
import { startCluster } from './support/cluster.js'
import { monitorCommands } from '../support/redis-monitor.js'
import { parseStoreCommands } from '../support/redis-commands.js'
import { needsRedis, type RedisServer } from '../support/redis-server.js'
import { openStream, postMessage } from '../support/http-client.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

/** Redis commands by name, and the operations of the store that they contain. */
interface Counts {
  readonly commands: Record<string, number>
  readonly operations: Record<string, number>
}

/** Counts the commands that clients, not scripts, send from now on. The returned function waits for a number of `settle` operations, returns the counts and resets them. */
async function countCommands (t: Test, redis: RedisServer): Promise<(settledCount?: number) => Promise<Counts>> {
  const createCounts = (): Counts => ({ commands: {}, operations: {} })
  let counts = createCounts()
  let onMarker = (): void => {}
  await monitorCommands(t, redis, (command, source) => {
    const name = command[0]?.toLowerCase() ?? ''
    if (name === 'echo') onMarker()
    // Operations with the sequence number 0 are heartbeats. They depend on the time, so they are not counted.
    else if (source !== 'lua' && !parseStoreCommands(command).some(({ sequence }) => sequence === 0)) {
      const increment = (list: Record<string, number>, key: string): void => { list[key] = (list[key] ?? 0) + 1 }
      increment(counts.commands, name)
      for (const { operation } of parseStoreCommands(command)) increment(counts.operations, operation)
    }
  })
  return async (settledCount = 0) => {
    await waitUntil(() => (counts.operations.complete ?? 0) >= settledCount, 'the settle operations')
    // MONITOR reports commands later than their replies, but in order. The ECHO marks the end.
    const marker = deferred()
    onMarker = marker.resolve
    await redis.sendCommand('ECHO', 'marker')
    await withTimeout(marker.promise, 'the ECHO command')
    const counted = counts
    counts = createCounts()
    return counted
  }
}

t.test('Redis commands and connections', needsRedis, async t => {
  const { nodes, redis, handlerRuns } = await startCluster(t, { lease: 1_000_000, plugin: { resumeTimeout: 1_000_000 } })
  const [first, second, third] = nodes
  const stream = await openStream(t, first.url)
  const { sessionId } = stream
  await second.call('join', sessionId, 'room')
  for (const { url } of nodes) await postMessage(url, sessionId, null, { event: 'quiet' })
  // Waits until the deferred operations of these messages have been sent.
  for (const node of nodes) await node.call('publish', 'room', 'down', 'ready')
  await stream.waitFor(({ data }) => data === 'ready')

  await t.test('each process has two connections', async t => {
    const clients = String(await redis.sendCommand('CLIENT', 'LIST')).trim().split('\n').filter(line => !line.includes('name=test'))
    t.equal(clients.length, 2 * nodes.length, clients.join('\n'))
  })

  await t.test('an event to one session, a channel or all sessions is one command', async t => {
    const readCounts = await countCommands(t, redis)
    await second.call('emitMany', sessionId, 'down', 100)
    t.strictSame((await readCounts()).commands, { evalsha: 101 }, 'the first command looks up the session')
    for (let n = 0; n < 50; n++) {
      await third.call('publish', 'room', 'down', n)
      await second.call('broadcast', 'down', n)
    }
    t.strictSame((await readCounts()).commands, { evalsha: 100 })
  })

  await t.test('a message is two commands; its response waits for the first command only', async t => {
    const readCounts = await countCommands(t, redis)
    for (let n = 0; n < 100; n++) await postMessage(second.url, sessionId, null, { event: 'quiet', key: `q${n}` })
    const { commands: { evalsha = 0, ...others }, operations } = await readCounts(100)
    t.strictSame([operations, others], [{ enqueue: 100, complete: 100 }, {}])
    // On a slow machine, the second operation may share a command with the first operation of the next message.
    t.ok(evalsha <= 200, `${evalsha} commands`)
    const response = postMessage(third.url, sessionId, 1, { event: 'gate' })
    await waitUntil(() => handlerRuns.length === 1, 'the handler')
    redis.pause()
    await third.call('openGate')
    t.match(await withTimeout(response, 'the response').finally(() => { redis.resume() }), { status: 200, body: 1 })
  })

  await t.test('no command scans all keys', async t => {
    const usedCommands = Object.keys(await redis.info('commandstats')).map(name => name.replace('cmdstat_', ''))
    t.ok(usedCommands.includes('evalsha') && usedCommands.includes('xadd'), usedCommands.join(' '))
    t.strictSame(usedCommands.filter(name => /^(keys|.*scan|randomkey|dbsize)$/.test(name)), [])
  })
})
