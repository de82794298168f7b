import t, { type Test } from 'tap'
import type { Session } from '../../lib/index.js'
import { openStream, postMessage, type ClientStream } from '../support/http-client.js'
import { interceptStoreCommands } from '../support/redis-commands.js'
import { needsRedis } from '../support/redis-server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { readQueue } from './support/messages.js'
import { openRunNodes, type RunNode } from './support/run-nodes.js'

interface Opened {
  readonly stream: ClientStream
  /** The session on a node that does not have its stream. */
  readonly remote: Session
}

async function openRemoteSession (t: Test, { url }: RunNode, remoteNode: RunNode): Promise<Opened> {
  const stream = await openStream(t, url)
  return { stream, remote: await remoteNode.sessions.find(stream.sessionId) as Session }
}

async function requestId (stream: ClientStream): Promise<string> {
  return ((await stream.waitFor(({ event }) => event === 'request', 'the request')).data as { request: string }).request
}

const rejection = (promise: Promise<unknown>): Promise<unknown> => withTimeout(promise.then(() => 'resolved', (error: unknown) => error), 'the rejection')

const answer = (node: RunNode, { sessionId }: ClientStream, request: string, data?: unknown): ReturnType<typeof postMessage> => postMessage(node.url, sessionId, { request, data }, { event: 'response' })

t.test('any node can send a request and receive its answer', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t)
  for (const node of [nodeA, nodeB]) {
    const { stream, remote } = await openRemoteSession(t, nodeB, nodeA)
    const confirmed = remote.request('confirm', 'delete?')
    const request = await requestId(stream)
    t.match(await answer(node, stream, request, { yes: true }), { status: 202 })
    t.strictSame(await withTimeout(confirmed, 'the answer'), { yes: true })
    t.match(await answer(nodeB, stream, request), { status: 404, body: { code: 'FST_SSE_REQUEST_UNKNOWN' } })
    const acknowledged = remote.emit('said', 1, { acknowledged: true })
    await stream.waitFor(({ event }) => event === 'said')
    const [, id = ''] = /\nrequest: (\S+)\n/.exec(stream.text()) ?? []
    await answer(node, stream, id)
    t.equal(await withTimeout(acknowledged, 'the acknowledgement'), undefined)
  }
})

t.test('a request waits in the log while its client moves to another node', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t)
  const { stream, remote } = await openRemoteSession(t, nodeB, nodeA)
  stream.destroy()
  await stream.ended
  const confirmed = remote.request('confirm')
  const moved = await openStream(t, nodeA.url, { headers: { 'last-event-id': String(stream.events[0]?.id) } })
  await answer(nodeB, moved, await requestId(moved), 'yes')
  t.equal(await withTimeout(confirmed, 'the answer'), 'yes')
})

t.test('an answer whose publication is lost arrives when the publications are read again', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t)
  const { stream, remote } = await openRemoteSession(t, nodeB, nodeA)
  const confirmed = remote.request('confirm')
  const request = await requestId(stream)
  nodeA.proxy.connections[1]?.server.pause()
  t.match(await answer(nodeB, stream, request, 'yes'), { status: 202 })
  await redis.sendCommand('CLIENT', 'KILL', 'TYPE', 'pubsub')
  t.equal(await withTimeout(confirmed, 'the answer'), 'yes')
})

t.test('a node that loses its lease rejects its requests, and their answers are refused', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t, { lease: 1000 })
  const { stream, remote } = await openRemoteSession(t, nodeB, nodeA)
  const rejected = rejection(remote.request('confirm'))
  const request = await requestId(stream)
  nodeA.proxy.setDown(true)
  await waitUntil(async () => await redis.sendCommand('HLEN', '{sse}:run_names') === 0, 'the end of the request')
  t.match(await answer(nodeB, stream, request), { status: 404, body: { code: 'FST_SSE_REQUEST_UNKNOWN' } })
  nodeA.proxy.setDown(false)
  t.match(await rejected, { code: 'FST_SSE_STORE_UNAVAILABLE' })
})

t.test('a request whose time is over while Redis does not reply ends afterwards', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t, { lease: 60_000 })
  const { stream, remote } = await openRemoteSession(t, nodeB, nodeA)
  const rejected = rejection(remote.request('confirm', 1, { timeout: 300 }))
  await requestId(stream)
  redis.pause()
  t.match(await rejected, { code: 'FST_SSE_REQUEST_TIMEOUT' })
  await waitUntil(() => nodeA.logged().some(({ msg }) => msg === 'the end of a run could not be stored'), 'the log line')
  redis.resume()
  await waitUntil(async () => await redis.sendCommand('HLEN', '{sse}:run_names') === 0, 'the end of the request')
})

t.test('the close of the session on another node rejects the request, and no request is sent to a closed session', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t)
  const { stream, remote } = await openRemoteSession(t, nodeB, nodeA)
  const rejected = rejection(remote.request('confirm'))
  await requestId(stream)
  nodeA.proxy.connections[1]?.server.pause()
  await (await nodeB.sessions.find(stream.sessionId) as Session).close()
  t.match(await rejection(remote.request('late')), { code: /FST_SSE_SESSION_OVER|FST_SSE_STORE_UNAVAILABLE/ })
  nodeA.proxy.connections[1]?.server.resume()
  t.match(await rejected, { code: 'FST_SSE_SESSION_OVER' })
  t.match(await rejection(remote.request('late')), { code: 'FST_SSE_SESSION_OVER' })
})

t.test('a request is appended once if the reply of Redis is lost', needsRedis, async t => {
  const [, nodeA] = await openRunNodes(t)
  const { stream, remote } = await openRemoteSession(t, nodeA, nodeA)
  let isLost = false
  const lost = deferred()
  interceptStoreCommands(nodeA.client, async commands => {
    if (isLost || !commands.some(({ operation }) => operation === 'run_start')) return
    isLost = true
    nodeA.proxy.connections[0]?.server.pause()
    lost.resolve()
  })
  const confirmed = remote.request('confirm')
  await lost.promise
  await stream.waitFor(({ event }) => event === 'request')
  nodeA.proxy.connections[0]?.client.destroy()
  await answer(nodeA, stream, await requestId(stream), 'yes')
  t.equal(await withTimeout(confirmed, 'the answer'), 'yes')
  t.equal(stream.events.filter(({ event }) => event === 'request').length, 1)
})

t.test('a handler that another node may run, too, sends no request', needsRedis, async t => {
  const [redis, nodeA, nodeB] = await openRunNodes(t, { lease: 1000 })
  const stream = await openStream(t, nodeA.url)
  const gate = deferred()
  const code = deferred<unknown>()
  nodeA.sessions.handle('remove', async session => {
    await gate.promise
    session.request('confirm').catch((error: unknown) => { code.resolve(error) })
  })
  nodeB.sessions.handle('remove', () => {})
  postMessage(nodeA.url, stream.sessionId, {}, { event: 'remove' }).catch(() => {})
  await waitUntil(async () => (await readQueue(redis, stream.sessionId)).length === 1, 'the handler')
  const countNodes = async (): Promise<unknown> => await redis.sendCommand('ZCARD', '{sse}:nodes')
  nodeA.proxy.setDown(true)
  await waitUntil(async () => await countNodes() === 1, 'the end of the lease')
  nodeA.proxy.setDown(false)
  await waitUntil(async () => await countNodes() === 2, 'the new registration')
  gate.resolve()
  t.match(await withTimeout(code.promise, 'the rejection'), { code: 'FST_SSE_STORE_UNAVAILABLE' })
})

t.test('a message whose handler fails because its node closes is handled on another node', needsRedis, async t => {
  const [, nodeA, nodeB] = await openRunNodes(t, { plugin: { closeTimeout: 9000 } })
  const stream = await openStream(t, nodeB.url)
  nodeA.sessions.handle('remove', session => session.request('confirm'))
  nodeB.sessions.handle('remove', () => 'removed')
  const post = ({ url }: RunNode): ReturnType<typeof postMessage> => withTimeout(postMessage(url, stream.sessionId, {}, { event: 'remove', key: 'm1' }), 'the response')
  const refused = post(nodeA)
  await requestId(stream)
  const closed = nodeA.app.close()
  t.match(await refused, { status: 503, body: { code: 'FST_SSE_CLOSING' } })
  await withTimeout(closed, 'the close')
  t.match(await post(nodeB), { status: 200, headers: { 'idempotent-replayed': undefined }, body: 'removed' })
})
