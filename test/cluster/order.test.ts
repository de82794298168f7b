import fc from 'fast-check'
import t from 'tap'
import { startCluster, type ClusterNode, type Run } from './support/cluster.js'
import { seedOf } from '../support/random.js'
import { needsRedis } from '../support/redis.js'
import { refused } from '../support/error-response.js'
import { openStream, post, type Answer, type PostOptions } from '../support/stream.js'
import { until } from '../support/wait.js'

const REPLAYED = 'idempotent-replayed'

t.test('messages of a session that come to different nodes', needsRedis, async t => {
  const { nodes, runs } = await startCluster(t, { plugin: { maxWaitingMessages: 20 } })
  const [first, second, third] = nodes
  const open = async (): Promise<string> => (await openStream(t, first.url)).sessionId
  const runsOf = (id: string): Run[] => runs.filter(({ session }) => session === id).sort((a, b) => a.begun - b.begun)
  const send = (node: ClusterNode, id: string, data: unknown, event: string, options: PostOptions = {}): Promise<Answer> => post(node.url, id, data, { event, ...options })
  /** Sends a message that is handled until the node's gate is opened, which stays open. */
  const occupy = async (node: ClusterNode, id: string): Promise<{ answer: Promise<Answer> }> => {
    const answer = send(node, id, 100, 'gate', { key: 'slow' })
    await until(() => runsOf(id).length === 1, 'the handler')
    return { answer }
  }

  await t.test('a repeat that comes to another node gets the first answer, with its status and headers', async t => {
    const id = await open()
    t.match(await send(first, id, 7, 'headers', { key: 'k' }), { status: 201, body: { pid: first.pid }, headers: { 'x-app': '7', [REPLAYED]: undefined } })
    for (const node of nodes) {
      t.match(await send(node, id, 7, 'headers', { key: 'k' }), { status: 201, body: { pid: first.pid }, headers: { 'x-app': '7', [REPLAYED]: 'true' } })
    }
  })

  await t.test('an error of a handler is the answer to its repeats at other nodes', async t => {
    const id = await open()
    refused(t, await send(first, id, 1, 'fail', { key: 'k' }), 409, 'APP_FAILED')
    for (const node of nodes) {
      const repeat = await send(node, id, 1, 'fail', { key: 'k' })
      refused(t, repeat, 409, 'APP_FAILED')
      t.match(repeat, { body: { message: 'no 1' }, headers: { [REPLAYED]: 'true' } })
    }
  })

  await t.test('a key that comes to another node with other data is refused', async t => {
    const id = await open()
    await send(first, id, 1, 'sync', { key: 'k' })
    refused(t, await send(second, id, 2, 'sync', { key: 'k' }), 422, 'FST_SSE_IDEMPOTENCY_KEY_REUSED')
    refused(t, await send(third, id, 1, 'up', { key: 'k' }), 422, 'FST_SSE_IDEMPOTENCY_KEY_REUSED')
  })

  await t.test('a message that was refused at one node is a new one at another', async t => {
    const id = await open()
    refused(t, await send(first, id, 1, 'unheard-of', { key: 'k' }), 404, 'FST_SSE_EVENT_UNKNOWN')
    t.match(await send(second, id, 1, 'sync', { key: 'k' }), { status: 200, headers: { [REPLAYED]: undefined } })
  })

  await t.test('however messages and their repeats fall on the nodes, each is handled once, and one at a time', async t => {
    const messages = fc.array(fc.array(fc.record({ node: fc.nat(2), awaited: fc.boolean() }), { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 10 })
    await fc.assert(fc.asyncProperty(messages, async plan => {
      const id = await open()
      const awaited: number[] = []
      const all: Array<Promise<unknown>> = []
      for (const [n, attempts] of plan.entries()) {
        for (const { node, awaited: waits } of attempts) {
          const before = [...awaited]
          const answer = send(nodes[node] ?? first, id, n, 'up', { key: `k${n}` })
          all.push(answer.then(({ status, body, headers }) => {
            t.strictSame({ status, body }, { status: 200, body: n })
            return headers[REPLAYED] === undefined ? { n, before } : []
          }))
          if (!waits) continue
          await answer
          awaited.push(n)
        }
      }
      const handled = (await Promise.all(all)).flat() as Array<{ n: number, before: number[] }>
      t.equal(handled.length, plan.length, 'of each key one answer is the first')
      const ran = runsOf(id)
      t.equal(ran.length, plan.length, 'each ran once')
      for (const [index, { ended = Infinity }] of ran.slice(0, -1).entries()) t.ok(ended <= (ran[index + 1]?.begun ?? 0), 'one at a time')
      const order = ran.map(({ data }) => data)
      for (const { n, before } of handled) t.ok(before.every(other => order.indexOf(other) <= order.indexOf(n)), 'behind those that were answered before it came')
    }), { seed: seedOf(t), numRuns: 25 })
  })

  await t.test('batches that come at once to all nodes are each handled as one piece, in order', async t => {
    const id = await open()
    const batches = nodes.map((node, index) => {
      const lines = Array.from({ length: 20 }, (_, n) => JSON.stringify({ event: 'up', data: index * 100 + n, id: `${index}-${n}` }))
      return post(node.url, id, lines.join('\n'), { headers: { 'content-type': 'application/x-ndjson' } })
    })
    // Only so many may wait; the others are to come again.
    const answers = await Promise.all(batches)
    const taken = answers.flatMap(({ status }, index) => status === 200 ? index : [])
    t.ok(taken.length > 0)
    for (const { status } of answers) t.ok([200, 429].includes(status), `${status}`)
    const order = runsOf(id).map(({ data }) => data as number)
    const pieces = order.filter((n, index) => n - 1 !== order[index - 1])
    t.strictSame(pieces.sort((a, b) => a - b), taken.map(index => index * 100))
    t.equal(order.length, taken.length * 20)
  })

  await t.test('a repeat that comes to another node while the first runs waits for it, and what comes behind waits, too', async t => {
    const id = await open()
    const { answer } = await occupy(first, id)
    const repeats = [second, third, first].map(node => send(node, id, 100, 'gate', { key: 'slow' }))
    refused(t, await send(second, id, 200, 'gate', { key: 'slow' }), 422, 'FST_SSE_IDEMPOTENCY_KEY_REUSED')
    const behind = [second, third].map((node, n) => send(node, id, n, 'up'))
    await first.ask('openGate')
    t.match(await answer, { status: 200, body: 100, headers: { [REPLAYED]: undefined } })
    for (const repeat of repeats) t.match(await repeat, { status: 200, body: 100, headers: { [REPLAYED]: 'true' } })
    for (const other of behind) t.match(await other, { status: 200 })
    const [slow, ...others] = runsOf(id)
    t.equal(others.length, 2)
    for (const { begun } of others) t.ok(begun >= (slow?.ended ?? Infinity))
  })

  await t.test('the number of messages that wait is that of all nodes', async t => {
    const id = await open()
    const { answer } = await occupy(second, id)
    const refusals: Answer[] = []
    const more = Array.from({ length: 30 }, async (_, n) => {
      const answer = await send(nodes[n % 3] ?? first, id, n, 'up')
      if (answer.status === 429) refusals.push(answer)
      return answer
    })
    await until(() => refusals.length === 10, 'the refusals')
    for (const answer of refusals) {
      refused(t, answer, 429, 'FST_SSE_TOO_MANY_WAITING')
      t.ok(Number(answer.headers['retry-after']) > 0)
    }
    await second.ask('openGate')
    t.match(await answer, { status: 200 })
    t.equal((await Promise.all(more)).filter(({ status }) => status === 200).length, 20)
  })
})
