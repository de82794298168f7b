import { EventEmitter, once } from 'node:events'
import t from 'tap'
import { countMasters, SlotClient, type IoRedisCluster, type NodeRedisCluster } from '../../lib/store/redis/cluster-client.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

/** A connection of a fake server, whose replies a test can choose. */
class FakeConnection extends EventEmitter {
  readonly calls: string[][] = []
  reply: (args: string[]) => Promise<unknown> = async () => 'OK'
  isDisconnected = false

  async call (...args: string[]): Promise<unknown> {
    this.calls.push(args)
    return await this.reply(args)
  }

  async subscribe (): Promise<void> {}
  async unsubscribe (): Promise<void> {}

  disconnect (): void {
    this.isDisconnected = true
  }
}

/** A server of a fake cluster. */
class FakeServer extends EventEmitter {
  readonly options: { host: string, port: number }
  readonly connections: FakeConnection[] = []
  readonly onConnect: (connection: FakeConnection) => void

  constructor (port: number, onConnect: (connection: FakeConnection) => void = connection => connection.emit('ready')) {
    super()
    this.options = { host: '127.0.0.1', port }
    this.onConnect = onConnect
  }

  async call (): Promise<unknown> {
    return undefined
  }

  duplicate (): FakeConnection {
    const connection = new FakeConnection()
    this.connections.push(connection)
    setImmediate(() => { this.onConnect(connection) })
    return connection
  }
}

/** A cluster of ioredis, whose status a test can change. */
type FakeCluster = EventEmitter & { -readonly [Name in keyof IoRedisCluster]: IoRedisCluster[Name] }

function createCluster (servers: FakeServer[]): { cluster: FakeCluster, setMaster: (server: FakeServer | undefined) => void } {
  let slots: string[][] = []
  const setMaster = (server: FakeServer | undefined): void => {
    slots = server === undefined ? [] : Array.from({ length: 16_384 }, () => [`127.0.0.1:${server.options.port}`])
  }
  setMaster(servers[0])
  const cluster = Object.assign(new EventEmitter(), { status: 'ready', slots, connect: async () => {}, nodes: () => servers, refreshSlotsCache: (callback: () => void) => { callback() } })
  return { cluster: Object.defineProperty(cluster, 'slots', { get: () => slots }), setMaster }
}

t.test('the first attempt of a cluster to connect may fail', async t => {
  const { cluster } = createCluster([new FakeServer(1)])
  cluster.status = 'wait'
  cluster.connect = async () => { throw new Error('refused') }
  const count = withTimeout(countMasters(cluster), 'the cluster')
  cluster.emit('error', new Error('refused'))
  setImmediate(() => { cluster.emit('ready') })
  t.equal(await count, 1)
  t.strictSame(cluster.eventNames(), [])
  cluster.status = 'connecting'
  const failed = countMasters(cluster)
  cluster.emit('error', 'not an Error')
  await t.rejects(withTimeout(failed, 'the error'), { code: 'FST_SSE_STORE_UNAVAILABLE', message: /not connected after 3000 ms: no reply/ })
})

t.test('after MOVED, the client connects to the new master, also if a duplicate has sent the command', async t => {
  const servers = [new FakeServer(1), new FakeServer(2)] as const
  const { cluster, setMaster } = createCluster([...servers])
  const client = new SlotClient(cluster, 'sse')
  const [commands, subscriber] = [client.duplicate(), client.duplicate()]
  const all = [client, commands, subscriber]
  t.teardown(() => { for (const open of all) open.disconnect() })
  await Promise.all(all.map(open => once(open, 'ready')))
  for (const connection of servers[0].connections) connection.reply = async () => { throw new Error('MOVED 1 127.0.0.1:2') }
  setMaster(servers[1])
  const ready = Promise.all(all.map(open => once(open, 'ready')))
  await t.rejects(commands.call('PING'), /MOVED/)
  await withTimeout(ready, 'the new connections')
  t.strictSame(servers.map(({ connections }) => connections.length), [3, 3])
})

t.test('after MOVED, the client connects to the new master once, also for publications', async t => {
  const servers = [new FakeServer(1), new FakeServer(2)] as const
  const { cluster, setMaster } = createCluster([...servers])
  const client = new SlotClient(cluster, 'sse')
  const duplicate = client.duplicate()
  t.teardown(() => { for (const open of [client, duplicate]) open.disconnect() })
  await t.rejects(client.call('PING'), /not connected/)
  await Promise.all([once(client, 'ready'), once(duplicate, 'ready')])
  const [first] = servers[0].connections as [FakeConnection]
  const [earlier, later] = [deferred<unknown>(), deferred<unknown>()]
  first.reply = async ([name]) => await (name === 'A' ? earlier : later).promise
  const replies = [client.call('A'), client.call('B')].map(async reply => { await t.rejects(reply, { message: /^TRYAGAIN MOVED/ }) })
  setMaster(servers[1])
  const ready = Promise.all([once(client, 'close'), once(client, 'ready'), once(duplicate, 'close'), once(duplicate, 'ready')])
  earlier.resolve(Promise.reject(new Error('MOVED 1 127.0.0.1:2')))
  await withTimeout(ready, 'the new connections')
  later.resolve(Promise.reject(new Error('MOVED 1 127.0.0.1:2')))
  await Promise.all(replies)
  t.equal(await client.call('PING'), 'OK')
  t.ok(first.isDisconnected)
  t.strictSame(servers.map(({ connections }) => connections.length), [2, 2])
})

t.test('while the slot is moving, commands can be repeated, and other errors are passed on', async t => {
  const server = new FakeServer(1)
  const client = new SlotClient(createCluster([server]).cluster, 'sse')
  t.teardown(() => { client.disconnect() })
  await once(client, 'ready')
  const [connection] = server.connections as [FakeConnection]
  for (const [message, expected] of [['ASK 1 127.0.0.1:2', /^TRYAGAIN ASK/], ['ERR Script attempted to access a non local key in a cluster node', /^TRYAGAIN ERR/], ['ERR other', /^ERR other/]] as const) {
    connection.reply = async () => { throw new Error(message) }
    await t.rejects(client.call('PING'), { message: expected })
  }
  t.equal(client.status, 'ready')
  connection.reply = async () => 1
  await client.subscribe('a')
  await client.unsubscribe('a')
  t.strictSame(connection.calls.slice(-2), [['ssubscribe', 'a'], ['sunsubscribe', 'a']])
})

t.test('the client looks for the master until there is one that accepts the connection', async t => {
  const refusing = new FakeServer(1, connection => {
    connection.emit('error', new Error('refused'))
    connection.emit('close')
  })
  const silent = new FakeServer(2, () => {})
  const working = new FakeServer(3)
  const { cluster, setMaster } = createCluster([refusing, silent, working])
  const client = new SlotClient(cluster, 'sse')
  t.teardown(() => { client.disconnect() })
  await waitUntil(() => refusing.connections.length === 2, 'a second attempt, without a listener for errors')
  const [error] = await withTimeout(once(client, 'never').catch((error: unknown) => [error]), 'an error') as [Error]
  t.equal(error.message, 'refused')
  setMaster(undefined)
  await waitUntil(() => client.status === 'reconnecting', 'an attempt without a master')
  setMaster(silent)
  await waitUntil(() => silent.connections.length === 1, 'the silent server')
  setMaster(working)
  await withTimeout(once(client, 'ready'), 'the working server')
  t.ok([...refusing.connections, ...silent.connections].every(({ isDisconnected }) => isDisconnected))
})

t.test('the client connects no more after it was closed, and a cluster of node-redis can have no master for a slot', async t => {
  const found = deferred<never>()
  const cluster: NodeRedisCluster = { isOpen: true, masters: [], slots: Array.from({ length: 16_384 }, () => ({ master: {} })), nodeClient: async () => await found.promise, sendCommand: async () => 0 }
  const client = new SlotClient(cluster, 'sse')
  await waitUntil(() => client.status === 'connecting', 'the attempt')
  client.disconnect()
  found.resolve(new FakeServer(1) as never)
  await found.promise
  t.equal(client.status, 'end')

  const withoutMaster = new SlotClient({ ...cluster, slots: [] }, 'sse')
  await waitUntil(() => withoutMaster.status === 'reconnecting', 'the next attempt')
  withoutMaster.disconnect()
})
