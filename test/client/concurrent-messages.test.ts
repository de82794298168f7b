import t from 'tap'
import { testEachClient, FORCE_CLOSE, waitForEvent } from '../support/clients.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { serve } from '../support/server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { echo, isPost, messagesOf, openStream, respond, scriptedServer, welcome, type Responder } from './support/scripted-server.js'

testEachClient(t, 'sends messages while a concurrent handler runs, also one that the handler waits for', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const stopped = deferred<string>()
  sessions.handle('generate', { concurrent: true }, () => stopped.promise)
  sessions.handle('stop', (_session, data) => { stopped.resolve(`stopped: ${data}`) })
  const session = connect(url)
  // Before the client has received the names of the concurrent events.
  const generated = session.request('generate')
  await withTimeout(session.request('stop', 'enough'), 'the response to the second message')
  t.equal(await generated, 'stopped: enough')
})

testEachClient(t, 'repeats a concurrent message after a lost connection, and the server handles it once', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const proxy = await startFaultProxy(t, Number(new URL(url).port))
  const gate = deferred()
  let runs = 0
  sessions.handle('slow', { concurrent: true }, async () => {
    runs++
    await gate.promise
    return runs
  })
  const session = connect(`http://127.0.0.1:${proxy.port}`)
  const result = session.request('slow')
  await waitUntil(() => runs === 1, 'the handler')
  const resumed = waitForEvent(session, 'resume')
  proxy.setDown(true)
  proxy.setDown(false)
  await resumed
  gate.resolve()
  t.equal(await withTimeout(result, 'the response'), 1)
})

testEachClient(t, 'tries a concurrent message again after 503, fails it after 404, and cancels it', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome(false, 's', { concurrent: ['c'] }))], [respond(503), echo, respond(200, {}, [{ status: 404, body: { code: 'GONE' } }]), () => {}])
  const session = connect(server.url)
  t.equal(await session.request('c', 1), 1)
  await t.rejects(session.request('c', 2), { code: 'GONE' })
  const controller = new AbortController()
  const canceled = session.request('c', 3, { signal: controller.signal })
  await waitUntil(() => server.requests.filter(isPost).length === 4, 'the POST')
  controller.abort(new Error('enough'))
  await t.rejects(canceled, { message: 'enough' })
  t.strictSame(server.requests.filter(isPost).map(request => messagesOf(request).map(({ data }) => data)), [[1], [1], [2], [3]])
  await withTimeout(session.close(), 'close()')
})

testEachClient(t, 'after a reset, sends a concurrent message in order if the new session handles it in order', async (t, connect) => {
  const unknown = respond(404, {}, { code: 'FST_SSE_SESSION_UNKNOWN' })
  const responder: Responder = async (response, body) => { await (response.req.headers['x-session-id'] === 's' ? unknown : echo)(response, body) }
  const server = await scriptedServer(t, [openStream(welcome(false, 's', { concurrent: ['c'] })), openStream(welcome(false, 't'))], Array(6).fill(responder))
  const session = connect(server.url)
  t.strictSame(await withTimeout(Promise.all([session.request('o', 1), session.request('c', 2), session.request('c', 3)]), 'the responses'), [1, 2, 3])
  t.strictSame(server.requests.filter(isPost).map(request => messagesOf(request).map(({ data }) => data)).at(-1), [1, 2, 3])
})
