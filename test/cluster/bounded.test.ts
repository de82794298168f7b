import { once } from 'node:events'
import t, { type Test } from 'tap'
import { bundleProgram } from '../support/bundle.js'
import { runScript } from '../support/child.js'
import { LONG_LEASE, startCluster } from './support/cluster.js'
import { monitor } from '../support/redis-monitor.js'
import { ordersOf } from '../support/redis-commands.js'
import { needsRedis, type RedisServer } from '../support/redis.js'
import { openStream, post } from '../support/stream.js'
import { signal, until, within } from '../support/wait.js'

// The crowd takes its time on a slow machine.
t.setTimeout(400_000)

/** What was counted since it was last asked for: commands and, of what is in them, orders. */
interface Counts {
  readonly commands: Record<string, number>
  readonly orders: Record<string, number>
}

/** Counts what clients, not scripts, send from now on; answers a function for it, and with that waits for so many orders to settle a message. */
async function countCommands (t: Test, redis: RedisServer): Promise<(settled?: number) => Promise<Counts>> {
  const none = (): Counts => ({ commands: {}, orders: {} })
  let counts = none()
  let told = (): void => {}
  await monitor(t, redis, (command, source) => {
    const name = command[0]?.toLowerCase() ?? ''
    if (name === 'echo') told()
    // What is in no order are signs of life, which come by the clock.
    else if (source !== 'lua' && !ordersOf(command).some(({ number }) => number === 0)) {
      const count = (list: Record<string, number>, what: string): void => { list[what] = (list[what] ?? 0) + 1 }
      count(counts.commands, name)
      for (const { operation } of ordersOf(command)) count(counts.orders, operation)
    }
  })
  return async (settled = 0) => {
    await until(() => (counts.orders.settle ?? 0) >= settled, 'the orders that nobody waits for')
    // What is told of commands comes behind their answers, but in their order.
    const all = signal()
    told = all.resolve
    await redis.ask('ECHO', 'all')
    await within(all.promise, 'the commands')
    const counted = counts
    counts = none()
    return counted
  }
}

t.test('what it costs Redis', needsRedis, async t => {
  const { nodes, redis, runs } = await startCluster(t, { lease: 1_000_000, plugin: { resumeTimeout: 1_000_000 } })
  const [first, second, third] = nodes
  const stream = await openStream(t, first.url)
  const { sessionId } = stream
  await second.ask('join', sessionId, 'room')
  for (const { url } of nodes) await post(url, sessionId, null, { event: 'quiet' })
  // Behind what each still has to tell Redis of its message.
  for (const node of nodes) await node.ask('publish', 'room', 'down', 'warm')
  await stream.waitFor(({ data }) => data === 'warm')

  await t.test('a process has two connections', async t => {
    const clients = String(await redis.ask('CLIENT', 'LIST')).trim().split('\n').filter(line => !line.includes('name=test'))
    t.equal(clients.length, 2 * nodes.length, clients.join('\n'))
  })

  await t.test('a message down, to one or to many, is one command', async t => {
    const counted = await countCommands(t, redis)
    await second.ask('emitMany', sessionId, 'down', 100)
    t.strictSame((await counted()).commands, { evalsha: 101 }, 'one to look the session up')
    for (let n = 0; n < 50; n++) {
      await third.ask('publish', 'room', 'down', n)
      await second.ask('broadcast', 'down', n)
    }
    t.strictSame((await counted()).commands, { evalsha: 100 })
  })

  await t.test('a message up is two commands, of which only the first is waited for', async t => {
    const counted = await countCommands(t, redis)
    for (let n = 0; n < 100; n++) await post(second.url, sessionId, null, { event: 'quiet', key: `q${n}` })
    const { commands: { evalsha = 0, ...others }, orders } = await counted(100)
    t.strictSame([orders, others], [{ begin: 100, settle: 100 }, {}])
    // On a slow machine one goes with the next message's first.
    t.ok(evalsha <= 200, `${evalsha} commands`)
    const answer = post(third.url, sessionId, 1, { event: 'gate' })
    await until(() => runs.length === 1, 'the handler')
    redis.pause()
    await third.ask('openGate')
    t.match(await within(answer, 'the answer').finally(() => { redis.resume() }), { status: 200, body: 1 })
  })

  await t.test('no command goes through all keys', async t => {
    const used = Object.keys(await redis.info('commandstats')).map(name => name.replace('cmdstat_', ''))
    t.ok(used.includes('evalsha') && used.includes('xadd'), used.join(' '))
    t.strictSame(used.filter(name => /^(keys|.*scan|randomkey|dbsize)$/.test(name)), [])
  })
})

// What the store keeps whether there are sessions or not.
const FEW = 8

t.test('Redis holds as much after 10,000 sessions came and went as before', needsRedis, async t => {
  // Longer than a node of a slow machine may take between the opening of a session and its stream.
  const cluster = await startCluster(t, { lease: LONG_LEASE, plugin: { resumeTimeout: 5000, log: { age: 200 }, channelLog: { age: 200 } } })
  const { nodes, redis } = cluster
  const crowd = await bundleProgram(t, new URL('./support/load-clients.ts', import.meta.url))
  const comeAndGo = async (count: number, event: string): Promise<void> => {
    const env = { URLS: nodes.map(({ url }) => url).join(), EVENT: event, COUNT: String(count) }
    const { process, output } = runScript(t, crowd, env)
    const [code] = await within(once(process, 'exit'), 'the crowd', 300_000)
    if (code !== 0) throw new Error(output())
    await until(async () => Number(await redis.ask('DBSIZE')) <= FEW, 'the keys to go', 30_000)
  }
  const memory = async (): Promise<number> => Number((await redis.info('memory')).used_memory)
  // What Redis keeps for itself: a histogram of 24 kB for each command that was ever used, and its slow log.
  await redis.ask('CONFIG', 'SET', 'slowlog-log-slower-than', '-1')
  await comeAndGo(500, 'use')
  const before = await memory()
  await comeAndGo(10_000, 'use')
  // It makes its tables smaller by and by. Thirty bytes a session would be more.
  let more = Infinity
  await until(async () => { more = await memory() - before; return more < 300_000 }, 'the memory to be free again', 30_000).catch(() => {})
  t.ok(more < 300_000, `${more} bytes more`)
})
