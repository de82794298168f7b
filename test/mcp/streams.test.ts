import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { CreateMessageRequestSchema, ElicitRequestSchema, ElicitResultSchema, EmptyResultSchema, LoggingMessageNotificationSchema } from '@modelcontextprotocol/sdk/types.js'
import { request as undiciRequest } from 'undici'
import t from 'tap'
import { z } from 'zod'
import { startFaultProxy } from '../support/fault-proxy.js'
import { matchList } from '../support/match-list.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { ACCEPT, callMessage, initializeMessage, openGet, post, startSession } from './support/raw.js'
import { connectClient, serveMcp, serverWith, text } from './support/server.js'

const cancel = (requestId: number): object => ({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId } })

for (const fault of ['cut', 'reset'] as const) {
  t.test(`the official client receives everything once over connections with the fault ${fault}`, async t => {
    const { app, url } = await serveMcp(t)
    const { port } = app.server.address() as import('node:net').AddressInfo
    // The connections of `initialize` and of other short responses stay intact, because their bytes are fewer.
    const proxy = await startFaultProxy(t, port, () => ({ fault, afterBytes: 3000 }))
    const { client } = await connectClient(t, `${proxy.url}/mcp`.replace(url, proxy.url))
    const progress: number[] = []
    const result = await withTimeout(client.callTool({ name: 'count', arguments: { to: 200 } }, undefined, { onprogress: event => { progress.push(event.progress) } }), 'the result')
    matchList(t, result, text('counted to 200'))
    t.strictSame(progress, Array.from({ length: 200 }, (_, index) => index + 1))
    t.ok(proxy.connections.filter(({ faulted }) => faulted).length > 3)
  })
}

t.test('a tool asks the user, and requests and notifications without a call use the stream of the GET', async t => {
  const { server, servers } = serverWith(server => {
    server.registerTool('ask', {}, async ({ sendRequest }) => text((await sendRequest({ method: 'elicitation/create', params: { message: 'name?', requestedSchema: { type: 'object', properties: { name: { type: 'string' } } } } }, ElicitResultSchema)).action))
  })
  const { url } = await serveMcp(t, { server })
  const client = new Client({ name: 'test', version: '1.0.0' }, { capabilities: { elicitation: {}, sampling: {} } })
  const logged: unknown[] = []
  client.setRequestHandler(ElicitRequestSchema, () => ({ action: 'decline' as const }))
  client.setRequestHandler(CreateMessageRequestSchema, () => ({ model: 'm', role: 'assistant' as const, content: { type: 'text' as const, text: 'sampled' } }))
  client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => { logged.push(params.data) })
  await connectClient(t, url, client)
  matchList(t, await client.callTool({ name: 'ask' }), text('decline'))
  const [created] = servers
  await created?.sendLoggingMessage({ level: 'info', data: 'log' })
  t.match(await created?.server.createMessage({ messages: [], maxTokens: 1 }), { content: { text: 'sampled' } })
  t.strictSame(logged, ['log'])
})

t.test('messages that were sent before the GET are not lost', async t => {
  const { server, servers } = serverWith(() => {})
  const { url } = await serveMcp(t, { server })
  const session = await startSession(url)
  await servers[0]?.sendLoggingMessage({ level: 'info', data: 'early' })
  const stream = await openGet(t, url, session)
  const { id = '' } = await stream.waitFor(({ data }) => String(JSON.stringify(data)).includes('early'))
  stream.destroy()
  await servers[0]?.sendLoggingMessage({ level: 'info', data: 'late' })
  const resumed = await openGet(t, url, { ...session, 'last-event-id': id })
  await resumed.waitFor(({ data }) => String(JSON.stringify(data)).includes('late'))
  t.notMatch(resumed.text(), 'early')
})

t.test('a tool that sends more than a client reads is suspended', async t => {
  let sent = 0
  const { server } = serverWith(server => {
    server.registerTool('flood', {}, async ({ sendNotification, signal }) => {
      for (; sent < 600 && !signal.aborted; sent++) await sendNotification({ method: 'notifications/message', params: { level: 'info', data: 'x'.repeat(100_000) } })
      return text('done')
    })
  })
  const { url } = await serveMcp(t, { server })
  const session = await startSession(url)
  const { body } = await undiciRequest(url, { method: 'POST', headers: { 'content-type': 'application/json', accept: ACCEPT, ...session }, body: JSON.stringify(callMessage(1, 'flood')) })
  body.on('error', () => {})
  let last = -1
  await waitUntil(async () => {
    if (sent === last && sent > 0) return true
    last = sent
    await new Promise(resolve => setTimeout(resolve, 300))
    return false
  }, 'the tool to be suspended')
  t.ok(sent < 300, `${sent} of 600 messages were sent`)
  // The other half arrives when the client reads.
  let received = 0
  for await (const chunk of body) received += (chunk as Buffer).length
  t.equal(sent, 600)
  t.ok(received > 60_000_000)
})

t.test('a canceled call ends its response, and its tool', async t => {
  const { url } = await serveMcp(t)
  const session = await startSession(url)
  const response = await post(url, callMessage(1, 'wait'), session)
  t.equal((await post(url, cancel(1), session)).status, 202)
  t.match(await response.text(), /event: close/)
  t.equal((await post(url, cancel(1), session)).status, 202)
})

t.test('a call ends when one of its requests is canceled and the others have responses', async t => {
  const { server, servers } = serverWith(() => {})
  const { url } = await serveMcp(t, { server })
  const session = await startSession(url, '2025-03-26')
  const response = await post(url, [callMessage(1, 'wait'), callMessage(2, 'wait')], session)
  await post(url, cancel(1), session)
  await servers[0]?.server.notification({ method: 'notifications/message', params: { level: 'info', data: 'late' } }, { relatedRequestId: 1 })
  await post(url, [cancel(2)], session)
  const body = await response.text()
  t.match(body, /event: close/)
  t.notMatch(body, 'late', 'a notification for the canceled request is dropped')
})

t.test('a notification for a call that has ended is dropped, and a request is refused', async t => {
  const outcomes = deferred<Array<PromiseSettledResult<unknown>>>()
  const { server } = serverWith(server => {
    server.registerTool('late', {}, ({ sendNotification, sendRequest }) => {
      setImmediate(() => {
        const notified = sendNotification({ method: 'notifications/message', params: { level: 'info', data: 'late' } })
        const requested = sendRequest({ method: 'ping' }, EmptyResultSchema)
        Promise.allSettled([notified, requested]).then(outcomes.resolve)
      })
      return text('done')
    })
  })
  const { url } = await serveMcp(t, { server })
  t.match(await (await post(url, callMessage(1, 'late'), await startSession(url))).json(), { result: text('done') })
  matchList(t, await withTimeout(outcomes.promise, 'the outcomes'), [{ status: 'fulfilled' }, { status: 'rejected', reason: { message: /has ended/ } }])
})

t.test('a notification for a call that fails because there are too many streams is dropped, and a request is refused', async t => {
  const outcomes = deferred<Array<PromiseSettledResult<unknown>>>()
  const { server } = serverWith(server => {
    server.registerTool('notify', {}, async ({ sendNotification, sendRequest }) => {
      const notified = sendNotification({ method: 'notifications/message', params: { level: 'info', data: 'progress' } })
      const requested = sendRequest({ method: 'ping' }, EmptyResultSchema)
      outcomes.resolve(await Promise.allSettled([notified, requested]))
      return text('done')
    })
  })
  const { url } = await serveMcp(t, { server, maxSessionsPerPrincipal: 1 })
  const session = await startSession(url)
  const waiting = await post(url, callMessage(1, 'wait'), session)
  const refused = await post(url, callMessage(2, 'notify'), session)
  t.equal(refused.status, 503)
  t.match(await refused.json(), { error: { data: { code: 'FST_SSE_MCP_TOO_MANY' } } })
  matchList(t, await withTimeout(outcomes.promise, 'the outcomes'), [{ status: 'fulfilled' }, { status: 'rejected', reason: { message: /too many open streams/ } }])
  await waiting.body?.cancel()
})

t.test('a response that is larger than the log becomes an error, and a larger notification fails', async t => {
  const { server } = serverWith(server => {
    server.registerTool('large', { inputSchema: { isNotification: z.boolean() } }, async ({ isNotification }, { sendNotification }) => {
      await sendNotification({ method: 'notifications/message', params: { level: 'info', data: isNotification ? 'x'.repeat(2000) : '' } })
      return text('x'.repeat(2000))
    })
  })
  const { url } = await serveMcp(t, { server, log: { bytes: 1000 } })
  const session = await startSession(url)
  t.match(await (await post(url, callMessage(1, 'large', { isNotification: false }), session)).text(), /"code":-32603,"message":"An event of/)
  t.match(await (await post(url, callMessage(2, 'large', { isNotification: true }), session)).text(), /isError/)
})

t.test('a tool closes the streams, and the client continues with others', async t => {
  const reconnected = deferred()
  const { server, servers } = serverWith(server => {
    server.registerTool('reconnect', {}, async ({ closeSSEStream, closeStandaloneSSEStream, sendNotification }) => {
      closeSSEStream?.()
      await reconnected.promise
      closeStandaloneSSEStream?.()
      await sendNotification({ method: 'notifications/message', params: { level: 'info', data: 'reconnected' } })
      closeSSEStream?.()
      return text('done')
    })
  })
  const { url } = await serveMcp(t, { server })
  const session = await startSession(url)
  const standalone = await openGet(t, url, session)
  await waitUntil(() => standalone.events.length > 0, 'the first event')
  const id = /id: (\S+)/.exec(await (await post(url, callMessage(1, 'reconnect'), session)).text())?.[1] ?? ''
  const stream = await openGet(t, url, { ...session, 'last-event-id': id })
  await waitUntil(() => stream.events.length > 0, 'the first event')
  reconnected.resolve()
  await standalone.ended
  await stream.ended
  t.match(await (await fetch(url, { headers: { ...session, 'last-event-id': id } })).text(), /reconnected[^]*done/)
  // The stream of a session that has none is not closed.
  const other = await startSession(url)
  t.equal((await post(url, callMessage(1, 'reconnect'), other)).status, 200)
  t.equal(servers.length, 2)
})

t.test('a call is canceled if its client does not reconnect in time', async t => {
  const aborted = deferred()
  const { server } = serverWith(server => {
    server.registerTool('abandoned', {}, ({ signal }) => new Promise(resolve => {
      signal.addEventListener('abort', () => { aborted.resolve(); resolve(text('')) })
    }))
  })
  const { url } = await serveMcp(t, { server, resumeTimeout: 200 })
  const session = await startSession(url)
  const response = await post(url, callMessage(1, 'abandoned'), session)
  await response.body?.cancel()
  await withTimeout(aborted.promise, 'the signal to abort')
})

t.test('a session without requests and streams ends after resumeTimeout', async t => {
  const { server, servers } = serverWith(() => {})
  const { url } = await serveMcp(t, { server, resumeTimeout: 500 })
  const session = await startSession(url)
  const closed = deferred()
  const [created] = servers
  if (created !== undefined) created.server.onclose = () => { closed.resolve() }
  const stream = await openGet(t, url, session)
  await waitUntil(() => stream.events.length > 0, 'the first event')
  const waiting = await post(url, callMessage(1, 'wait'), session)
  await new Promise(resolve => setTimeout(resolve, 700))
  t.equal((await post(url, cancel(1), session)).status, 202)
  await waiting.text()
  await new Promise(resolve => setTimeout(resolve, 700))
  t.equal((await post(url, cancel(1), session)).status, 202)
  stream.destroy()
  await withTimeout(closed.promise, 'the session to end')
  t.equal((await post(url, cancel(1), session)).status, 404)
})

t.test('DELETE ends the calls of a session', async t => {
  const { url } = await serveMcp(t)
  const session = await startSession(url)
  const response = await post(url, callMessage(1, 'wait'), session)
  t.equal((await fetch(url, { method: 'DELETE', headers: session })).status, 204)
  t.match(await response.text(), /event: close/)
})

t.test('the app ends a session when it closes the server', async t => {
  const { server, servers } = serverWith(() => {})
  const { url } = await serveMcp(t, { server })
  const session = await startSession(url)
  await servers[0]?.close()
  t.equal((await post(url, cancel(1), session)).status, 404)
})

t.test('close() waits for calls, then responds with errors', async t => {
  const { server } = serverWith(server => {
    server.registerTool('slow', {}, () => new Promise(resolve => { setTimeout(resolve, 200, text('slow')) }))
  })
  const { app, url } = await serveMcp(t, { server, closeTimeout: 1000 }, undefined, { return503OnClosing: false })
  const session = await startSession(url)
  const standalone = await openGet(t, url, session)
  const [slow, stuck] = await Promise.all([post(url, callMessage(1, 'slow'), session), post(url, callMessage(2, 'wait'), session)])
  const closed = app.close()
  const refused = await Promise.all([post(url, callMessage(3, 'slow'), session), fetch(url, { headers: session }), post(url, initializeMessage())])
  t.strictSame(refused.map(({ status }) => status), [503, 503, 503])
  t.match(await slow.text(), /"text":"slow"/)
  t.match(await stuck.text(), /"id":2,"error":\{"code":-32603,"message":"The server is closing"/)
  await withTimeout(closed, 'close()')
  await standalone.ended
})
