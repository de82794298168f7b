import fc from 'fast-check'
import t from 'tap'
import { startCluster, type ClusterNode, type HandlerRun } from './support/cluster.js'
import { chooseSeed } from '../support/random.js'
import { needsRedis } from '../support/redis-server.js'
import { assertErrorResponse } from '../support/error-response.js'
import { openStream, postMessage, type HttpResponse, type PostOptions } from '../support/http-client.js'
import { waitUntil } from '../support/wait.js'

const REPLAYED = 'idempotent-replayed'

t.test('messages of one session on several nodes', needsRedis, async t => {
  const { nodes, handlerRuns, waitForReports } = await startCluster(t, { plugin: { maxWaitingMessages: 20 } })
  const [first, second, third] = nodes
  const open = async (): Promise<string> => (await openStream(t, first.url)).sessionId
  const runsOf = (id: string): HandlerRun[] => handlerRuns.filter(({ session }) => session === id).sort((a, b) => a.startedAt - b.startedAt)
  const send = (node: ClusterNode, id: string, data: unknown, event: string, options: PostOptions = {}): Promise<HttpResponse> => postMessage(node.url, id, data, { event, ...options })
  /** Sends a message whose handler runs until the gate of the node is opened. The gate stays open. */
  const startSlowMessage = async (node: ClusterNode, id: string): Promise<{ response: Promise<HttpResponse> }> => {
    const response = send(node, id, 100, 'gate', { key: 'slow' })
    await waitUntil(() => runsOf(id).length === 1, 'the handler')
    return { response }
  }

  await t.test('a repeat on another node gets the first response, with its status and headers', async t => {
    const id = await open()
    t.match(await send(first, id, 7, 'headers', { key: 'k' }), { status: 201, body: { pid: first.pid }, headers: { 'x-app': '7', [REPLAYED]: undefined } })
    for (const node of nodes) {
      t.match(await send(node, id, 7, 'headers', { key: 'k' }), { status: 201, body: { pid: first.pid }, headers: { 'x-app': '7', [REPLAYED]: 'true' } })
    }
  })

  await t.test('a repeat on another node gets the same error as the first message', async t => {
    const id = await open()
    assertErrorResponse(t, await send(first, id, 1, 'fail', { key: 'k' }), 409, 'APP_FAILED')
    for (const node of nodes) {
      const repeat = await send(node, id, 1, 'fail', { key: 'k' })
      assertErrorResponse(t, repeat, 409, 'APP_FAILED')
      t.match(repeat, { body: { message: 'no 1' }, headers: { [REPLAYED]: 'true' } })
    }
  })

  await t.test('rejects a key that is reused with other data or another event on another node', async t => {
    const id = await open()
    await send(first, id, 1, 'sync', { key: 'k' })
    assertErrorResponse(t, await send(second, id, 2, 'sync', { key: 'k' }), 422, 'FST_SSE_IDEMPOTENCY_KEY_REUSED')
    assertErrorResponse(t, await send(third, id, 1, 'up', { key: 'k' }), 422, 'FST_SSE_IDEMPOTENCY_KEY_REUSED')
  })

  await t.test('a message that one node rejected is a new message on another node', async t => {
    const id = await open()
    assertErrorResponse(t, await send(first, id, 1, 'unregistered', { key: 'k' }), 404, 'FST_SSE_EVENT_UNKNOWN')
    t.match(await send(second, id, 1, 'sync', { key: 'k' }), { status: 200, headers: { [REPLAYED]: undefined } })
  })

  await t.test('handles each message once and one at a time, for random distributions of messages and repeats', async t => {
    const messages = fc.array(fc.array(fc.record({ node: fc.nat(2), isAwaited: fc.boolean() }), { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 10 })
    await fc.assert(fc.asyncProperty(messages, async plan => {
      const id = await open()
      const awaited: number[] = []
      const all: Array<Promise<unknown>> = []
      for (const [n, attempts] of plan.entries()) {
        for (const { node, isAwaited } of attempts) {
          const earlier = [...awaited]
          const response = send(nodes[node] ?? first, id, n, 'up', { key: `k${n}` })
          all.push(response.then(({ status, body, headers }) => {
            t.strictSame({ status, body }, { status: 200, body: n })
            return headers[REPLAYED] === undefined ? { n, earlier } : []
          }))
          if (!isAwaited) continue
          await response
          awaited.push(n)
        }
      }
      const handled = (await Promise.all(all)).flat() as Array<{ n: number, earlier: number[] }>
      t.equal(handled.length, plan.length, 'one response per key is not a replay')
      await waitForReports()
      const ran = runsOf(id)
      t.equal(ran.length, plan.length, 'each message ran once')
      for (const [index, { endedAt = Infinity }] of ran.slice(0, -1).entries()) t.ok(endedAt <= (ran[index + 1]?.startedAt ?? 0), 'handlers do not overlap')
      const order = ran.map(({ data }) => data)
      for (const { n, earlier } of handled) t.ok(earlier.every(other => order.indexOf(other) <= order.indexOf(n)), 'it ran after the messages whose responses arrived before it was sent')
    }), { seed: chooseSeed(t), numRuns: 25 })
  })

  await t.test('handles batches that arrive at all nodes at once without interleaving, each in order', async t => {
    const id = await open()
    const batches = nodes.map((node, index) => {
      const messages = Array.from({ length: 20 }, (_, n) => JSON.stringify({ event: 'up', data: index * 100 + n, id: `${index}-${n}` }))
      return postMessage(node.url, id, messages.join('\n'), { headers: { 'content-type': 'application/x-ndjson' } })
    })
    // The queue has no room for all batches. Some are rejected with 429.
    const responses = await Promise.all(batches)
    const accepted = responses.flatMap(({ status }, index) => status === 200 ? index : [])
    t.ok(accepted.length > 0)
    for (const { status } of responses) t.ok([200, 429].includes(status), `${status}`)
    await waitForReports()
    const order = runsOf(id).map(({ data }) => data as number)
    const batchStarts = order.filter((n, index) => n - 1 !== order[index - 1])
    t.strictSame(batchStarts.sort((a, b) => a - b), accepted.map(index => index * 100))
    t.equal(order.length, accepted.length * 20)
  })

  await t.test('a repeat on another node waits for the running handler, and so do later messages', async t => {
    const id = await open()
    const { response } = await startSlowMessage(first, id)
    const repeats = [second, third, first].map(node => send(node, id, 100, 'gate', { key: 'slow' }))
    assertErrorResponse(t, await send(second, id, 200, 'gate', { key: 'slow' }), 422, 'FST_SSE_IDEMPOTENCY_KEY_REUSED')
    const later = [second, third].map((node, n) => send(node, id, n, 'up'))
    await first.call('openGate')
    t.match(await response, { status: 200, body: 100, headers: { [REPLAYED]: undefined } })
    for (const repeat of repeats) t.match(await repeat, { status: 200, body: 100, headers: { [REPLAYED]: 'true' } })
    for (const message of later) t.match(await message, { status: 200 })
    await waitForReports()
    const [slow, ...others] = runsOf(id)
    t.equal(others.length, 2)
    for (const { startedAt } of others) t.ok(startedAt >= (slow?.endedAt ?? Infinity))
  })

  await t.test('the limit of queued messages counts the messages of all nodes', async t => {
    const id = await open()
    const { response } = await startSlowMessage(second, id)
    const rejected: HttpResponse[] = []
    const responses = Array.from({ length: 30 }, async (_, n) => {
      const response = await send(nodes[n % 3] ?? first, id, n, 'up')
      if (response.status === 429) rejected.push(response)
      return response
    })
    await waitUntil(() => rejected.length === 10, 'the rejected messages')
    for (const response of rejected) {
      assertErrorResponse(t, response, 429, 'FST_SSE_TOO_MANY_WAITING')
      t.ok(Number(response.headers['retry-after']) > 0)
    }
    await second.call('openGate')
    t.match(await response, { status: 200 })
    t.equal((await Promise.all(responses)).filter(({ status }) => status === 200).length, 20)
  })
})
