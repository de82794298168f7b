import type { FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import { http2Client, http2Server } from '../support/http2.js'
import { serve, type Served } from '../support/server.js'
import { openStream } from '../support/stream.js'
import { get, wire } from '../support/wire.js'
import { signal, turn, within } from '../support/wait.js'

const HELD = { 'x-held': '1' }

/** Serves with a hook that keeps marked requests until their clients have left; `handled` resolves when our route has such a request. */
async function serveSlowly (t: Test, fastify: FastifyServerOptions = {}): Promise<Served & { readonly held: Promise<void>, readonly handled: Promise<void> }> {
  const [held, handled] = [signal(), signal()]
  const served = await serve(t, { principal: ({ headers }) => { if ('x-held' in headers) handled.resolve() } }, {
    fastify,
    before: app => app.addHook('preHandler', async ({ headers, socket }, reply) => {
      if (!('x-held' in headers)) return
      const left = signal()
      reply.raw.once('close', left.resolve)
      socket.once('close', left.resolve)
      held.resolve()
      await left.promise
    })
  })
  return { ...served, held: held.promise, handled: handled.promise }
}

for (const pipelined of [false, true]) {
  t.test(`a client that has left when its request${pipelined ? ', pipelined behind another stream,' : ''} comes to the route opens no session`, async t => {
    const { sessions, port, held, handled } = await serveSlowly(t)
    const client = wire(t, port, { request: (pipelined ? get() : '') + get(HELD) })
    if (pipelined) await client.waitFor('welcome')
    await within(held, 'the request')
    client.socket.destroy()
    await within(handled, 'the route')
    await turn()
    t.match(sessions.stats(), { streams: 0, sessions: pipelined ? 1 : 0 })
  })
}

t.test('a client of HTTP/2 that has left when its request comes to the route opens no session', async t => {
  const served = await serveSlowly(t, http2Server)
  const stream = http2Client(t, served).request({ ':path': '/downward', ...HELD })
  stream.on('error', () => {})
  await within(served.held, 'the request')
  stream.close()
  await within(served.handled, 'the route')
  await turn()
  t.match(served.sessions.stats(), { streams: 0, sessions: 0 })
})

t.test('a client that has left when its request comes to the route does not take its stream from the session', async t => {
  const { sessions, url, port, held, handled } = await serveSlowly(t)
  const stream = await openStream(t, url)
  sessions.addHook('onResume', () => { t.fail('told of a client that is not back') })
  const client = wire(t, port, { headers: { ...HELD, 'x-session-id': stream.sessionId } })
  await within(held, 'the request')
  client.socket.destroy()
  await within(handled, 'the route')
  await turn()
  await (await sessions.find(stream.sessionId))?.send('still here')
  await stream.waitFor(({ data }) => data === 'still here')
})
