import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { Server } from '@modelcontextprotocol/sdk/server/index.js'
import { ElicitRequestSchema, ElicitResultSchema, LoggingMessageNotificationSchema, SetLevelRequestSchema, SubscribeRequestSchema, UnsubscribeRequestSchema } from '@modelcontextprotocol/sdk/types.js'
import type { FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import type { McpOptions } from '../../lib/mcp/index.js'
import { resolveMcpOptions } from '../../lib/mcp/options.js'
import { redisStore } from '../../lib/redis.js'
import type { Session } from '../../lib/sessions/session.js'
import { createSessions, type Sessions } from '../../lib/sessions/sessions.js'
import { runScript, type TrackedProcess } from '../support/child-process.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { matchList } from '../support/match-list.js'
import { needsRedis, startRedis, type RedisServer } from '../support/redis-server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { callMessage, openGet, post, startSession } from './support/raw.js'
import { createServer, serveMcp, serverWith, text } from './support/server.js'

const PING = { jsonrpc: '2.0', id: 1, method: 'ping' }
const ELICITATION = { method: 'elicitation/create' as const, params: { message: 'name?', requestedSchema: { type: 'object' as const, properties: { name: { type: 'string' as const } } } } }

/** Starts a node in this process. */
async function startNode (t: import('tap').Test, redis: RedisServer, options: Partial<McpOptions> = {}, lease = 1000): Promise<{ app: FastifyInstance, url: string }> {
  const client = new Redis({ port: redis.port, host: '127.0.0.1' })
  client.on('error', () => {})
  const node = await serveMcp(t, { store: redisStore({ client, lease }), ...options }, undefined, { return503OnClosing: false, pluginTimeout: 0 })
  t.teardown(() => { client.disconnect() })
  return node
}

/** Opens the sessions of the store, as another node sees them. */
async function openSessions (t: import('tap').Test, redis: RedisServer, { log }: FastifyInstance): Promise<Sessions> {
  const client = new Redis({ port: redis.port, host: '127.0.0.1' })
  const { sessions: settings } = resolveMcpOptions({ server: createServer, closeTimeout: 500, retry: 1, store: redisStore({ client, lease: 1000 }) }, 0)
  const sessions = await createSessions(settings, log)
  t.teardown(async () => {
    await sessions.close()
    client.disconnect()
  })
  return sessions
}

/** Finds the inbox of the node that runs the server of a session. */
async function findInbox (sessions: Sessions, session: Record<string, string>): Promise<Session | undefined> {
  return await sessions.find(String((await sessions.find(String(session['mcp-session-id'])))?.data.inbox))
}

/** Starts a node in a process of its own. */
async function spawnNode (t: import('tap').Test, redis: RedisServer): Promise<{ url: string, node: TrackedProcess }> {
  const node = runScript(t, 'test/mcp/support/node.ts', { REDIS_PORT: String(redis.port) }, ['--import', './test/support/strip-types.js'])
  const [, url = ''] = await node.waitForOutput(/listening on (\S+)/)
  return { url, node }
}

/** Reads a response until its text matches a pattern. Resolves with the text, and with a function that reads the rest. */
async function readUntil ({ body }: Response, pattern: RegExp): Promise<{ text: string, readRest: () => Promise<string> }> {
  const reader = (body as ReadableStream<Uint8Array>).getReader()
  const decoder = new TextDecoder()
  const read = async (isComplete: (text: string) => boolean): Promise<string> => {
    let text = ''
    while (!isComplete(text)) {
      const { done, value } = await reader.read()
      if (done) break
      text += decoder.decode(value, { stream: true })
    }
    return text
  }
  return { text: await read(text => pattern.test(text)), readRest: () => read(() => false) }
}

/** Connects the official client, which sends its requests to each node in turn. */
async function connectRoundRobin (t: import('tap').Test, urls: readonly string[], client: Client): Promise<StreamableHTTPClientTransport> {
  let count = 0
  const transport = new StreamableHTTPClientTransport(new URL(String(urls[0])), {
    fetch: (_url, init) => fetch(String(urls[count++ % urls.length]), init),
    reconnectionOptions: { initialReconnectionDelay: 1, maxReconnectionDelay: 10, reconnectionDelayGrowFactor: 1, maxRetries: 100 }
  })
  t.teardown(() => client.close())
  await withTimeout(client.connect(transport), 'the client to connect')
  return transport
}

t.test('the official client uses two nodes in turn, over connections that are cut', needsRedis, async t => {
  const redis = await startRedis(t)
  const { server, servers } = serverWith(server => {
    server.registerTool('ask', {}, async ({ sendRequest, authInfo }) => {
      const { action } = await sendRequest(ELICITATION, ElicitResultSchema)
      return text(`${action} ${String(authInfo)}`)
    })
  })
  const nodes = [await startNode(t, redis, { server }), await startNode(t, redis, { server })]
  const proxies = await Promise.all(nodes.map(async ({ app }) => await startFaultProxy(t, (app.server.address() as AddressInfo).port, () => ({ fault: 'cut', afterBytes: 3000 }))))
  const client = new Client({ name: 'test', version: '1.0.0' }, { capabilities: { elicitation: {} } })
  const logged: unknown[] = []
  client.setRequestHandler(ElicitRequestSchema, () => ({ action: 'decline' as const }))
  client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => { logged.push(params.data) })
  const transport = await connectRoundRobin(t, proxies.map(({ url }) => `${url}/mcp`), client)
  for (let call = 0; call < 3; call++) {
    const progress: number[] = []
    const result = await withTimeout(client.callTool({ name: 'count', arguments: { to: 100 } }, undefined, { onprogress: event => { progress.push(event.progress) } }), 'the result')
    matchList(t, result, text('counted to 100'))
    t.strictSame(progress, Array.from({ length: 100 }, (_, index) => index + 1))
    matchList(t, await withTimeout(client.callTool({ name: 'ask' }), 'the result'), text('decline undefined'))
  }
  t.ok(proxies.flatMap(({ connections }) => connections).filter(({ faulted }) => faulted).length > 3)
  t.equal(servers.length, 1, 'one server for all nodes')
  await servers[0]?.sendLoggingMessage({ level: 'info', data: 'log' })
  await waitUntil(() => logged.length > 0, 'the notification')
  const session = { 'mcp-session-id': String(transport.sessionId) }
  await transport.terminateSession()
  for (const { url } of nodes) await waitUntil(async () => (await post(url, PING, session)).status === 404, 'the session to end')
})

t.test('a request that another node refuses gets an error', needsRedis, async t => {
  const redis = await startRedis(t)
  const options = { maxWaitingMessages: 1, log: { bytes: 2000 } }
  const [first, second] = [await startNode(t, redis, options), await startNode(t, redis, options)]
  const session = await startSession(first.url)
  const waiting = await post(second.url, callMessage(1, 'wait'), session)
  t.match(await (await post(second.url, callMessage(1, 'wait'), session)).text(), /"id":1,"error":\{"code":-32603,"message":"[^"]*in use[^]*event: close/)
  t.match(await (await post(second.url, callMessage(2, 'wait'), session)).text(), /"id":2,"error":\{"code":-32603,"message":"A session can have 1 requests/)
  await waiting.body?.cancel()
})

t.test('when the node that runs a call is killed, the client gets an error within 2 seconds, and the session continues', needsRedis, async t => {
  const redis = await startRedis(t)
  const { url: first, node } = await spawnNode(t, redis)
  const { url: second } = await startNode(t, redis)
  const session = await startSession(first)
  // One stream from each node.
  const calls = [post(first, callMessage(1, 'begin'), session), post(second, callMessage(2, 'begin'), session)] as const
  // If it has not begun, another node runs the call.
  const [own, forwarded] = await withTimeout(Promise.all([readUntil(await calls[0], /begun/), readUntil(await calls[1], /begun/)]), 'the calls to begin')
  const [, lastEventId = ''] = /^id: (\S+)$/m.exec(own.text) ?? []
  const killedAt = performance.now()
  await node.kill()
  const resumed = fetch(second, { headers: { ...session, 'last-event-id': lastEventId } }).then(response => response.text())
  t.match(await withTimeout(forwarded.readRest(), 'the error'), /"id":2,"error":\{"code":-32603[^]*event: close/)
  t.match(await withTimeout(resumed, 'the error'), /"id":1,"error":\{"code":-32603[^]*event: close/)
  const duration = performance.now() - killedAt
  t.ok(duration < 2000, `${Math.round(duration)} ms`)
  t.match(await (await post(second, callMessage(3, 'add', { a: 1, b: 2 }), session)).json(), { id: 3, result: text('3') })
})

t.test('messages that a killed node has not handled are handled once by another one', needsRedis, async t => {
  const redis = await startRedis(t)
  const client = new Redis({ port: redis.port, host: '127.0.0.1' })
  t.teardown(() => { client.disconnect() })
  const { server } = serverWith(server => {
    server.registerTool('increment', {}, async () => text(String(await client.incr('count'))))
  })
  const { url, node } = await spawnNode(t, redis)
  const nodes = [await startNode(t, redis, { server }), await startNode(t, redis, { server })]
  const urls = nodes.map(({ url }) => url)
  const session = await startSession(url)
  // The node receives the messages, but does nothing.
  process.kill(-Number(node.process.pid), 'SIGSTOP')
  const responses = urls.map((url, index) => post(url, callMessage(index, 'increment'), session).then(response => response.text()))
  const notification = post(String(urls[0]), { jsonrpc: '2.0', method: 'notifications/roots/list_changed' }, session)
  const texts = await withTimeout(Promise.all(responses), 'the results')
  for (const [index, result] of texts.entries()) t.match(result, new RegExp(`"text":"[12]"[^\\n]*"id":${index}[^]*event: close`))
  t.equal((await notification).status, 202)
  // Its lease is over, so it does not handle what it has received.
  process.kill(-Number(node.process.pid), 'SIGCONT')
  await waitUntil(async () => (await post(url, PING, session)).status === 200, 'the paused node to continue')
  t.equal(await client.get('count'), '2')
})

t.test('messages that are lost on their way to another node are passed again', needsRedis, async t => {
  const redis = await startRedis(t)
  const options = { log: { entries: 2 } }
  const [first, second] = [await startNode(t, redis, options), await startNode(t, redis, options)]
  const session = await startSession(first.url)
  const responses = await Promise.all(Array.from({ length: 30 }, (_, id) => post(second.url, callMessage(id, 'add', { a: id, b: 0 }), session)))
  for (const [id, response] of responses.entries()) t.match(await withTimeout(response.text(), 'the result'), `"text":"${id}"`)
})

t.test('many large messages without a request do not end the calls of another node', needsRedis, async t => {
  const redis = await startRedis(t)
  // The messages block this process, so a short lease could end.
  const [first, second] = [await startNode(t, redis, {}, 30_000), await startNode(t, redis, {}, 30_000)]
  const [session, other] = [await startSession(first.url), await startSession(first.url)]
  const waiting = await post(first.url, callMessage(1, 'wait'), session)
  const large = { jsonrpc: '2.0', method: 'notifications/progress', params: { progressToken: 'x'.repeat(900_000), progress: 1 } }
  const responses = await Promise.all(Array.from({ length: 20 }, () => post(second.url, large, other)))
  t.strictSame([...new Set(responses.map(({ status }) => status))], [202])
  t.equal((await post(first.url, callMessage(1, 'wait'), session)).status, 400, 'the call runs')
  await waiting.body?.cancel()
})

t.test('the calls of a node that closes get the answers and the cancellations that another node receives', needsRedis, async t => {
  const redis = await startRedis(t)
  const { server, servers } = serverWith(server => {
    server.registerTool('ask', {}, async ({ sendRequest }) => text((await sendRequest(ELICITATION, ElicitResultSchema)).action))
  })
  const options = { server, closeTimeout: 60_000 }
  const [first, second] = [await startNode(t, redis, options), await startNode(t, redis, options)]
  const session = await startSession(first.url)
  const [asking, waiting] = [await post(first.url, callMessage(1, 'ask'), session), await post(first.url, callMessage(2, 'wait'), session)]
  const { text: asked, readRest } = await withTimeout(readUntil(asking, /elicitation[^]*\n\n/), 'the request of the server')
  const [, json = ''] = /^data: (.*elicitation.*)$/m.exec(asked) ?? []
  const sessions = await openSessions(t, redis, second.app)
  const closed = first.app.close()
  await waitUntil(async () => (await findInbox(sessions, session))?.data.isClosing === true, 'the node to begin to close')
  const { id } = JSON.parse(json) as { id: string | number }
  t.equal((await post(second.url, { jsonrpc: '2.0', id, result: { action: 'decline' } }, session)).status, 202)
  t.match(await withTimeout(readRest(), 'the result'), /"text":"decline"/)
  t.equal((await post(second.url, { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 2 } }, session)).status, 202)
  t.notMatch(await withTimeout(waiting.text(), 'the end of the stream'), /"id":2/)
  await withTimeout(closed, 'close()')
  t.equal(servers.length, 1, 'one server for both nodes')
  t.match(await (await post(second.url, callMessage(3, 'add', { a: 1, b: 2 }), session)).text(), /"text":"3"/)
})

t.test('a server that continues a session does not use the request ids of the earlier server again', needsRedis, async t => {
  const redis = await startRedis(t)
  const { server } = serverWith(server => {
    server.registerTool('ask', {}, async ({ sendRequest }) => text((await sendRequest(ELICITATION, ElicitResultSchema)).action))
  })
  const options = { server, closeTimeout: 60_000 }
  const [first, second] = [await startNode(t, redis, options), await startNode(t, redis, options)]
  const session = await startSession(first.url)
  const ask = async (url: string, id: number): Promise<{ id: string | number, readRest: () => Promise<string> }> => {
    const { text: asked, readRest } = await withTimeout(readUntil(await post(url, callMessage(id, 'ask'), session), /elicitation[^]*\n\n/), 'the request of the server')
    const [, json = ''] = /^data: (.*elicitation.*)$/m.exec(asked) ?? []
    return { ...JSON.parse(json) as { id: number }, readRest }
  }
  const answer = async (id: string | number, action: string): Promise<void> => {
    t.equal((await post(second.url, { jsonrpc: '2.0', id, result: { action } }, session)).status, 202)
  }
  const earlier = await ask(first.url, 1)
  const sessions = await openSessions(t, redis, second.app)
  const closed = first.app.close()
  await waitUntil(async () => (await findInbox(sessions, session))?.data.isClosing === true, 'the node to begin to close')
  const later = await ask(second.url, 2)
  t.not(later.id, earlier.id)
  await answer(earlier.id, 'accept')
  await answer(later.id, 'decline')
  t.match(await withTimeout(later.readRest(), 'the result'), /"text":"decline"/)
  t.equal((await post(second.url, { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 1 } }, session)).status, 202)
  await fetch(first.url, { method: 'DELETE', headers: session }).catch(() => {})
  await withTimeout(closed, 'close()')
})

t.test('another node restores the log level and the subscriptions', needsRedis, async t => {
  const redis = await startRedis(t)
  const received: unknown[] = []
  const create = (): Server => {
    const server = new Server({ name: 'test', version: '1.0.0' }, { capabilities: { logging: {}, resources: { subscribe: true } } })
    for (const schema of [SetLevelRequestSchema, SubscribeRequestSchema, UnsubscribeRequestSchema]) {
      server.setRequestHandler(schema as typeof SubscribeRequestSchema, ({ method, params }) => {
        if (params.uri === 'test://unknown') throw new Error('no such resource')
        received.push([method, params.uri ?? (params as { level?: string }).level])
        return {}
      })
    }
    return server
  }
  const [first, second] = [await startNode(t, redis, { server: create }), await startNode(t, redis, { server: create })]
  const session = await startSession(first.url)
  const requests: Array<[string, object]> = [
    ['logging/setLevel', { level: 'debug' }],
    ['resources/subscribe', { uri: 'test://a' }],
    ['resources/subscribe', { uri: 'test://b' }],
    ['resources/subscribe', { uri: 'test://unknown' }],
    ['resources/unsubscribe', { uri: 'test://a' }],
    ['logging/setLevel', { level: 'error' }]
  ]
  for (const [id, [method, params]] of requests.entries()) t.equal((await post(first.url, { jsonrpc: '2.0', id, method, params }, session)).status, 200)
  await first.app.close()
  received.length = 0
  t.equal((await post(second.url, PING, session)).status, 200)
  t.strictSame(received, [['resources/subscribe', 'test://b'], ['logging/setLevel', 'error']])
})

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  t.test(`the official client continues after a restart by ${signal}`, needsRedis, async t => {
    const redis = await startRedis(t)
    const urls: string[] = []
    const { url, node } = await spawnNode(t, redis)
    urls.push(url)
    const client = new Client({ name: 'test', version: '1.0.0' })
    const transport = await connectRoundRobin(t, urls, client)
    const id = transport.sessionId
    matchList(t, await client.callTool({ name: 'add', arguments: { a: 1, b: 2 } }), text('3'))
    await node.kill(signal)
    urls[0] = (await spawnNode(t, redis)).url
    // Until the lease of the killed node ends, requests are sent to it. Then they are repeated.
    matchList(t, await withTimeout(client.callTool({ name: 'count', arguments: { to: 3 } }), 'the result'), text('counted to 3'))
    t.equal(transport.sessionId, id)
  })
}

t.test('two nodes that restore a session at the same time agree on one of them', needsRedis, async t => {
  const redis = await startRedis(t)
  const { url, node } = await spawnNode(t, redis)
  const session = await startSession(url)
  const { server } = serverWith(() => {})
  const nodes = [await startNode(t, redis, { server }), await startNode(t, redis, { server })]
  await node.kill('SIGTERM')
  const responses = await Promise.all(nodes.flatMap(({ url }) => [1, 2].map(async id => await (await post(url, callMessage(id, 'add', { a: 1, b: 2 }), session)).text())))
  for (const response of responses) t.match(response, /"text":"3"|in use/)
  for (const { url } of nodes) t.match(await (await post(url, callMessage(9, 'add', { a: 2, b: 2 }), session)).text(), /"text":"4"/)
})

t.test('a node whose inbox was closed ends its servers, and continues their sessions with new ones', needsRedis, async t => {
  const redis = await startRedis(t)
  const { server, servers } = serverWith(() => {})
  const { app, url } = await startNode(t, redis, { server })
  const session = await startSession(url)
  const stream = await openGet(t, url, session)
  await waitUntil(() => stream.events.length > 0, 'the first event')
  const closed = deferred()
  const [created] = servers
  if (created !== undefined) created.server.onclose = () => { closed.resolve() }
  // Another node does this if the process was paused for too long.
  const sessions = await openSessions(t, redis, app)
  const inbox = await findInbox(sessions, session)
  // Messages for a session that is not there any more.
  const response = await sessions.open('unknown')
  await response?.update({ inbox: inbox?.id, requestIds: [1], forwarded: { messages: [PING], info: { url, headers: {} } } })
  for (const id of ['unknown', response?.id, response?.id]) await inbox?.send(id)
  await waitUntil(() => response?.closed === true, 'the end of the stream')
  await inbox?.close('lost')
  await withTimeout(closed.promise, 'the server to close')
  await waitUntil(async () => (await post(url, PING, session)).status === 200, 'the next inbox')
  t.match(await (await post(url, callMessage(1, 'add', { a: 1, b: 2 }), session)).text(), /"text":"3"/)
})
