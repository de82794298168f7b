import { FastifyOtelInstrumentation } from '@fastify/otel'
import { InMemorySpanExporter, NodeTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-node'
import { ServerResponse } from 'node:http'
import { finished, PassThrough, Readable } from 'node:stream'
import t from 'tap'
import { request } from 'undici'
import { openStream, postMessage } from '../support/http-client.js'
import { connectHttp2, http2Options, requestHttp2 } from '../support/http2.js'
import { openRawClient, recordOpenedSessions, sendUntilStalled, PADDING, waitForStreams } from '../support/raw-client.js'
import { runSource } from '../support/run-source.js'
import { serve, type ServeOptions } from '../support/server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

/** Options of `serve` for an app with a hook that may use, or replace, the payload of streams. */
const withHook = (hook: (payload: Readable) => unknown): ServeOptions => ({
  beforeRegister: app => app.addHook('onSend', async (_request, _reply, payload) => payload instanceof Readable ? hook(payload) : payload)
})

// What onSend hooks do with a payload that is a stream. `seen` receives the text of the stream, `end` is called at its end.
const USES: Record<string, (payload: Readable, seen: (text: string) => void, end: () => void) => unknown> = {
  'listens to its data': (payload, seen, end) => payload.on('data', data => { seen(String(data)) }).on('close', end),
  'waits for its end': (payload, _seen, end) => {
    finished(payload, end)
    return payload
  },
  'iterates over it': (payload, seen, end) => {
    const iterate = async (): Promise<void> => { for await (const data of payload) seen(String(data)) }
    iterate().then(end, end)
    return payload
  },
  'pipes it to another stream': (payload, seen, end) => payload.pipe(new PassThrough()).on('data', data => { seen(String(data)) }).on('close', end),
  'replaces it with a web stream': (payload, _seen, end) => {
    payload.on('close', end)
    return Readable.toWeb(payload)
  },
  'replaces it with a Response': (payload, _seen, end) => {
    payload.on('close', end)
    return new Response(Readable.toWeb(payload) as ReadableStream)
  }
}

for (const [title, use] of Object.entries(USES)) {
  for (const isEndedByServer of [true, false]) {
    t.test(`an onSend hook that ${title} receives what the client receives, until the ${isEndedByServer ? 'session closes' : 'client disconnects'}`, async t => {
      const end = deferred()
      let seen: string | undefined
      const { sessions, url } = await serve(t, {}, withHook(payload => use(payload, text => { seen = (seen ?? '') + text }, () => { end.resolve() })))
      const stream = await openStream(t, url)
      t.match(stream.headers, { 'content-type': 'text/event-stream; charset=utf-8', 'x-session-id': stream.sessionId })
      for (const n of [1, 2]) {
        await sessions.broadcast('news', n)
        await stream.waitFor(({ data }) => data === n)
      }
      const session = await sessions.find(stream.sessionId)
      if (isEndedByServer) await session?.close('done')
      else stream.destroy()
      await withTimeout(end.promise, 'the end of the payload')
      if (isEndedByServer) await withTimeout(stream.ended, 'the end of the stream')
      await waitUntil(() => sessions.stats().streams === 0, 'the end of the stream on the server')
      t.equal(session?.closed, isEndedByServer)
      if (seen !== undefined && isEndedByServer) t.equal(seen, stream.text())
    })
  }
}

t.test('a client that reads slowly receives everything through a stream of an onSend hook', async t => {
  const { sessions, port } = await serve(t, { log: { bytes: 2 ** 26 } }, withHook(payload => payload.pipe(new PassThrough())))
  const opened = recordOpenedSessions(sessions)
  const client = openRawClient(t, port, { stalled: true })
  await waitForStreams(sessions, 1)
  const [{ session }] = opened as [typeof opened[0]]
  const count = await sendUntilStalled([session], n => session.send({ n, padding: PADDING }))
  client.read()
  await waitUntil(() => client.numbers().length === count, 'all messages')
  t.strictSame(client.numbers(), Array.from({ length: count }, (_, i) => i + 1))
})

for (const [title, hook, status] of [
  ['destroys the payload', (payload: Readable) => payload.destroy(), 500],
  ['replaces the payload with text', () => 'text', 200]
] as const) {
  t.test(`responds with ${status} if an onSend hook ${title}, and closes the session`, async t => {
    const closed = deferred<string>()
    const { sessions, url } = await serve(t, {}, withHook(hook))
    sessions.addHook('onClose', (_session, reason) => { closed.resolve(reason) })
    const stream = await openStream(t, url, { skipWelcome: true })
    t.equal(stream.status, status)
    await withTimeout(stream.ended, 'the end of the response')
    t.equal(await withTimeout(closed.promise, 'the close of the session'), 'aborted')
  })
}

for (const error of [undefined, new Error('destroyed by a hook')]) {
  t.test(`an onSend hook ends the stream if it destroys the payload later, ${error === undefined ? 'without' : 'with'} an error`, async t => {
    const errors: unknown[] = []
    let payload: Readable | undefined
    const { sessions, url } = await serve(t, {}, {
      ...withHook(stream => {
        payload = stream
        return stream
      }),
      fastify: { logger: { level: 'error', stream: { write: line => { errors.push((JSON.parse(line) as { err: Error }).err.message) } } } }
    })
    const stream = await openStream(t, url)
    payload?.destroy(error)
    await withTimeout(stream.ended, 'the end of the stream')
    await waitForStreams(sessions, 0)
    t.equal((await sessions.find(stream.sessionId))?.closed, false, 'the client can resume')
    t.strictSame(errors, error === undefined ? [] : ['destroyed by a hook'])
  })
}

for (const handler of ['the plugin', 'a stream of an onSend hook']) {
  t.test(`onResponse hooks run once at the end of a stream that ${handler} writes`, async t => {
    let count = 0
    const hook = withHook(payload => handler === 'the plugin' ? payload : payload.pipe(new PassThrough()))
    const options: ServeOptions = {
      beforeRegister: async app => {
        await hook.beforeRegister?.(app)
        app.addHook('onResponse', async ({ method }) => { if (method === 'GET') count++ })
      }
    }
    const http1 = await serve(t, {}, options)
    const http2 = await serve(t, {}, { ...options, fastify: http2Options })
    for (const isEndedByServer of [true, false]) {
      const stream = await openStream(t, http1.url)
      t.equal(count, 0)
      if (isEndedByServer) await (await http1.sessions.find(stream.sessionId))?.close()
      else stream.destroy()
      await waitUntil(() => count > 0, 'onResponse')

      const client = connectHttp2(t, http2)
      const response = await requestHttp2(client, { ':path': '/downward' })
      if (isEndedByServer) await (await http2.sessions.find(String(response.headers['x-session-id'])))?.close()
      else response.cancel()
      await waitUntil(() => count > 1, 'onResponse over HTTP/2')
      await postMessage(http1.url, stream.sessionId, {})
      t.equal(count, 2)
      count = 0
    }
  })
}

for (const [title, hook] of [['a stream', undefined], ['a stream that an onSend hook has replaced', withHook(payload => payload.pipe(new PassThrough()))]] as const) {
  t.test(`the handlerTimeout of the app does not end ${title}`, async t => {
    const { sessions, url } = await serve(t, {}, {
      ...hook,
      fastify: { handlerTimeout: 50 },
      afterRegister: app => app.get('/slow', async () => await new Promise(() => {}))
    })
    const stream = await openStream(t, url)
    t.equal((await request(`${url}/slow`)).statusCode, 503, 'a handler of the app timed out')
    await sessions.broadcast('news', 'after the timeout')
    t.equal((await stream.waitFor(({ event }) => event === 'news')).data, 'after the timeout')
  })
}

t.test('a wrapper of ServerResponse.prototype.write sees what streams write, and may return nothing', async t => {
  const { write } = ServerResponse.prototype
  t.teardown(() => { Reflect.deleteProperty(ServerResponse.prototype, 'write') })
  let seen = ''
  ServerResponse.prototype.write = function (this: ServerResponse, ...args: unknown[]) {
    seen += String(args[0])
    Reflect.apply(write, this, args)
  } as typeof write
  const { sessions, url } = await serve(t)
  const stream = await openStream(t, url)
  for (const n of [1, 2, 3]) {
    await sessions.broadcast('news', n)
    await stream.waitFor(({ data }) => data === n)
  }
  t.equal(seen, stream.text())
})

t.test('a wrapper of write that is installed before the plugin is loaded sees what streams write', async t => {
  const { code, output } = await runSource(t, `
    import { OutgoingMessage } from 'node:http'
    const { write } = OutgoingMessage.prototype
    const seen = []
    OutgoingMessage.prototype.write = function (...args) {
      seen.push(/event: \\w+/.exec(args[0])[0])
      return write.apply(this, args)
    }
    const { default: Fastify } = await import('fastify')
    const { default: sseSessions } = await import('./lib/index.js')
    const app = Fastify()
    await app.register(sseSessions)
    const { body } = await fetch(await app.listen({ port: 0 }) + '/downward')
    const reader = body.getReader()
    for (let n = 0; n < 3; n++) {
      await reader.read()
      await app.sseSessions.broadcast('news', n)
    }
    await reader.cancel()
    await app.close()
    console.log(seen.slice(0, 3).join())
  `)
  t.equal(code, 0)
  t.match(output, 'event: welcome,event: news,event: news')
})

t.test('@fastify/otel ends the span of a request although its stream stays open', async t => {
  const exporter = new InMemorySpanExporter()
  const provider = new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
  t.teardown(() => provider.shutdown())
  const otel = new FastifyOtelInstrumentation()
  otel.setTracerProvider(provider)
  const { url } = await serve(t, {}, { beforeRegister: app => app.register(otel.plugin()) })
  await openStream(t, url)
  await waitUntil(() => exporter.getFinishedSpans().some(({ name }) => name === 'request'), 'the end of the span')
})
