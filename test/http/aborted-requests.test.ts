import type { FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import { connectHttp2, http2Options } from '../support/http2.js'
import { serve, type TestServer } from '../support/server.js'
import { openStream } from '../support/http-client.js'
import { formatGet, openRawClient } from '../support/raw-client.js'
import { deferred, nextEventLoopTick, withTimeout } from '../support/wait.js'

const DELAYED = { 'x-delayed': '1' }

/**
 * Serves with a `preHandler` hook that delays requests with the header `x-delayed` until their clients have disconnected.
 * `delayed` resolves when the hook has such a request, and `handled` when the route has it.
 */
async function serveWithDelay (t: Test, fastify: FastifyServerOptions = {}): Promise<TestServer & { readonly delayed: Promise<void>, readonly handled: Promise<void> }> {
  const [delayed, handled] = [deferred(), deferred()]
  const served = await serve(t, { principal: ({ headers }) => { if ('x-delayed' in headers) handled.resolve() } }, {
    fastify,
    beforeRegister: app => app.addHook('preHandler', async ({ headers, socket }, reply) => {
      if (!('x-delayed' in headers)) return
      const disconnected = deferred()
      reply.raw.once('close', disconnected.resolve)
      socket.once('close', disconnected.resolve)
      delayed.resolve()
      await disconnected.promise
    })
  })
  return { ...served, delayed: delayed.promise, handled: handled.promise }
}

for (const isPipelined of [false, true]) {
  t.test(`a request${isPipelined ? ' that is pipelined behind another stream' : ''} opens no session if its client disconnects before the route handles it`, async t => {
    const { sessions, port, delayed, handled } = await serveWithDelay(t)
    const client = openRawClient(t, port, { request: (isPipelined ? formatGet() : '') + formatGet(DELAYED) })
    if (isPipelined) await client.waitFor('welcome')
    await withTimeout(delayed, 'the request')
    client.socket.destroy()
    await withTimeout(handled, 'the route')
    await nextEventLoopTick()
    t.match(sessions.stats(), { streams: 0, sessions: isPipelined ? 1 : 0 })
  })
}

t.test('a request over HTTP/2 opens no session if its client disconnects before the route handles it', async t => {
  const served = await serveWithDelay(t, http2Options)
  const stream = connectHttp2(t, served).request({ ':path': '/downward', ...DELAYED })
  stream.on('error', () => {})
  await withTimeout(served.delayed, 'the request')
  stream.close()
  await withTimeout(served.handled, 'the route')
  await nextEventLoopTick()
  t.match(served.sessions.stats(), { streams: 0, sessions: 0 })
})

t.test('a resuming request does not replace the stream if its client disconnects before the route handles it', async t => {
  const { sessions, url, port, delayed, handled } = await serveWithDelay(t)
  const stream = await openStream(t, url)
  sessions.addHook('onResume', () => { t.fail('onResume ran for a client that has disconnected') })
  const client = openRawClient(t, port, { headers: { ...DELAYED, 'x-session-id': stream.sessionId } })
  await withTimeout(delayed, 'the request')
  client.socket.destroy()
  await withTimeout(handled, 'the route')
  await nextEventLoopTick()
  await (await sessions.find(stream.sessionId))?.send('after the abort')
  await stream.waitFor(({ data }) => data === 'after the abort')
})
