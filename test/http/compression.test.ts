import compress from '@fastify/compress'
import { PassThrough, Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { request } from 'undici'
import type { SseSessionsOptions } from '../../lib/index.js'
import { GZIP, openEncodedStream } from '../support/encoded-stream.js'
import { serve, type ServeOptions, type TestServer } from '../support/server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

/** Starts an app with compression. */
const serveCompressed = (t: Test, options: SseSessionsOptions = {}, more?: ServeOptions): Promise<TestServer> => serve(t, { compress: true, ...options }, more)

t.test('a stream is compressed if the client accepts gzip', async t => {
  const served = await serveCompressed(t)
  for (const [accepted, isCompressed] of Object.entries({
    gzip: true,
    'gzip, deflate, br, zstd': true,
    'br;q=1, GZIP ; Q=0.5': true,
    'gzip;q=0.001': true,
    'gzip;q=0': false,
    'gzip;q=0.000, br': false,
    'gzip;q=x': false,
    identity: false,
    br: false,
    '*': false,
    'x-gzip': false,
    '': false
  })) {
    const { headers, text } = await openEncodedStream(t, served.url, { 'accept-encoding': accepted })
    t.equal(headers['content-encoding'], isCompressed ? 'gzip' : undefined, accepted)
    t.equal(headers.vary, 'Accept-Encoding')
    t.equal(headers['content-type'], 'text/event-stream; charset=utf-8')
    await waitUntil(() => text().includes('event: welcome\n'), 'the welcome')
  }
})

t.test('without the option, streams are not compressed, and do not depend on the header', async t => {
  for (const options of [{}, { compress: false }, { compress: { broadcasts: false } }]) {
    const { headers, text } = await openEncodedStream(t, (await serve(t, options)).url)
    t.notOk('content-encoding' in headers || 'vary' in headers)
    await waitUntil(() => text().includes('event: welcome\n'), 'the welcome')
  }
})

t.test('broadcasts and channels can be selected', async t => {
  const data = 'these words appear in an event without compression'
  for (const [compress, expected] of [
    [true, ['prices', 'private', 'broadcast']],
    [{ broadcasts: true }, ['broadcast']],
    [{ channels: true }, ['prices', 'private']],
    [{ channels: /^pri/g }, ['prices', 'private']],
    [{ channels: /^prices$/g }, ['prices']],
    [{ broadcasts: true, channels: /^(?!private)/ }, ['prices', 'broadcast']]
  ] as const) {
    const served = await serveCompressed(t, { compress })
    const { sessions } = served
    const compressed: string[] = []
    for (const name of ['prices', 'private', 'session', 'broadcast']) {
      sessions.addHook('onOpen', session => session.join(name))
      const stream = await openEncodedStream(t, served.url)
      for (let n = 0; n < 2; n++) {
        if (name === 'broadcast') await sessions.broadcast('message', data)
        else if (name === 'session') await (await sessions.find(stream.sessionId))?.send(data)
        else await sessions.channel(name).send(data)
      }
      await waitUntil(() => stream.text().split(data).length === 3, 'the events')
      // The second event is the same as the first, so it is shorter if it is compressed.
      if (stream.raw().split(data).length < 3) compressed.push(name)
    }
    t.strictSame(compressed, expected)
  }
})

t.test('a hook that uses the payload gets text, and the response is not compressed', async t => {
  const served = await serveCompressed(t, {}, {
    beforeRegister: app => app.addHook('onSend', async (_request, _reply, payload) => payload instanceof Readable ? payload.pipe(new PassThrough()) : payload)
  })
  const { headers, text } = await openEncodedStream(t, served.url)
  t.notOk('content-encoding' in headers)
  await served.sessions.broadcast('tick', 1)
  await waitUntil(() => text().includes('event: tick\n'), 'the event')
})

t.test('a hook can set another encoding', async t => {
  const served = await serveCompressed(t, {}, {
    beforeRegister: app => app.addHook('onSend', async (_request, reply) => { reply.header('content-encoding', 'identity') })
  })
  const { headers, text } = await openEncodedStream(t, served.url)
  t.equal(headers['content-encoding'], 'identity')
  await waitUntil(() => text().includes('event: welcome\n'), 'the welcome')
})

for (const when of ['before', 'after'] as const) {
  t.test(`@fastify/compress, global and registered ${when} the plugin, does not compress the stream a second time`, async t => {
    const served = await serveCompressed(t, {}, {
      beforeRegister: app => when === 'before' ? app.register(compress, { global: true, threshold: 0 }) : undefined,
      afterRegister: app => when === 'after' ? app.register(compress, { global: true, threshold: 0 }) : undefined
    })
    const { headers, text } = await openEncodedStream(t, served.url, { 'accept-encoding': 'br, gzip' })
    t.equal(headers['content-encoding'], 'gzip')
    await served.sessions.broadcast('tick', 1)
    await waitUntil(() => text().includes('event: tick\n'), 'the event')
  })
}

t.test('the header Vary keeps what CORS has added', async t => {
  const { headers } = await openEncodedStream(t, (await serveCompressed(t, { cors: { origin: ['https://a.example', 'https://b.example'] } })).url, { ...GZIP, origin: 'https://a.example' })
  t.equal(headers.vary, 'Origin, Accept-Encoding')
})

t.test('an error response after a hook has failed is not marked as compressed', async t => {
  const served = await serveCompressed(t, {}, {
    beforeRegister: app => app.addHook('onSend', async (_request, reply) => { if (reply.statusCode === 200) throw new Error('the hook failed') })
  })
  const { headers, text } = await openEncodedStream(t, served.url)
  t.notOk('content-encoding' in headers)
  await waitUntil(() => text().includes('"statusCode":500'), 'the error')
})

t.test('an error response after a header was invalid is not marked as compressed', async t => {
  const served = await serveCompressed(t, {}, {
    beforeRegister: app => {
      app.addHook('onSend', async (_request, reply) => { if (reply.statusCode === 200) reply.header('x-invalid', 'a\nb') })
      app.setErrorHandler(async (error: Error, _request, reply) => {
        reply.removeHeader('x-invalid')
        return reply.code(500).send({ message: error.message })
      })
    }
  })
  const { headers, text } = await openEncodedStream(t, served.url)
  t.notOk('content-encoding' in headers)
  await waitUntil(() => text().includes('x-invalid'), 'the error')
})

t.test('a response that is replaced before it starts is compressed, too', async t => {
  const served = await serveCompressed(t)
  const [hookStarted, gate] = [deferred(), deferred()]
  served.sessions.addHook('onResume', async (_session, { headers }) => {
    if (headers['x-slow'] === undefined) return
    hookStarted.resolve()
    await gate.promise
  })
  const { sessionId } = await openEncodedStream(t, served.url)
  const opening = openEncodedStream(t, served.url, { ...GZIP, 'x-session-id': sessionId, 'x-slow': '1' })
  await withTimeout(hookStarted.promise, 'the hook of the earlier request')
  await openEncodedStream(t, served.url, { ...GZIP, 'x-session-id': sessionId })
  gate.resolve()
  const slow = await opening
  await withTimeout(slow.ended, 'the end of the earlier request')
  t.equal(slow.headers['content-encoding'], 'gzip')
  t.equal(slow.text(), 'event: replaced\nid: closed\ndata: {}\n\n')
})

t.test('a response whose hooks are still running when close() begins is compressed, too', async t => {
  const [hookStarted, gate] = [deferred(), deferred()]
  const served = await serveCompressed(t, {
    retry: 10,
    routes: {
      downward: {
        onSend: async () => {
          hookStarted.resolve()
          await gate.promise
        }
      }
    }
  })
  const opening = openEncodedStream(t, served.url)
  await withTimeout(hookStarted.promise, 'the hook')
  const closing = served.app.close()
  await waitUntil(() => served.sessions.closing, 'close() to begin')
  gate.resolve()
  const { headers, text, ended } = await opening
  await withTimeout(ended, 'the end of the response')
  t.equal(headers['content-encoding'], 'gzip')
  t.equal(text(), 'retry: 510\n\n')
  await closing
})

t.test('runs are not compressed', async t => {
  const served = await serveCompressed(t, {}, {
    afterRegister: app => app.get('/run', async (request, reply) => {
      return (await app.sseSessions.runs.start('run', {}, function * () { yield 1 })).reply(request, reply)
    })
  })
  const { headers, body } = await request(`${served.url}/run`, { headers: GZIP })
  t.notOk('content-encoding' in headers)
  t.match(await body.text(), /data: 1\n/)
})

t.test('padding and the final event are decoded', async t => {
  const served = await serveCompressed(t, { padding: true })
  const stream = await openEncodedStream(t, served.url)
  await served.sessions.broadcast('tick', 1)
  await (await served.sessions.find(stream.sessionId))?.close('bye')
  await withTimeout(stream.ended, 'the end')
  t.match(stream.text(), /^retry: .*: {4093}\n\nid: .*event: tick\n.*event: close\nid: closed\ndata: \{"reason":"bye"\}\n\n$/s)
})
