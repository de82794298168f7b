import { readFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { eachClient, forced, next, record } from '../support/clients.js'
import { faultProxy } from '../support/proxy.js'
import { CLOSE, open, scriptedServer, status, stream, welcome } from './support/scripted-server.js'
import { serve } from '../support/server.js'
import { signal, until, within } from '../support/wait.js'

eachClient(t, 'messages go both ways', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: forced })
  sessions.addHook('onOpen', () => ({ text: 'hi' }))
  sessions.handle('message', async (session, data) => { await session.send(data) })
  sessions.handle('add', (_session, data) => {
    const { a, b } = data as { a: number, b: number }
    return a + b
  })
  sessions.handle('quiet', () => {})
  sessions.handle('fail', (_session, _data, { reply }) => reply.code(409).send({ code: 'TAKEN', message: 'Taken' }))
  const session = connect(url)
  t.equal(session.state, 'connecting')
  t.equal(session.sessionId, undefined)
  const opened = next(session, 'open')
  const message = next(session, 'message')
  await session.send({ n: 1 })
  t.match(await opened, { resumed: false, text: 'hi', sessionId: session.sessionId })
  t.equal(session.state, 'open')
  t.strictSame(await message, { n: 1 })
  t.equal(await session.request('add', { a: 1, b: 2 }), 3)
  t.equal(await session.request('quiet', {}), undefined)
  await t.rejects(session.request('fail', {}), { name: 'ClientError', code: 'TAKEN', status: 409 })
  await t.rejects(session.request('nobody', {}), { code: 'FST_SSE_EVENT_UNKNOWN', status: 404 })
})

eachClient(t, 'a session that the client closes is over on both sides, and one that the server closes, too', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: forced })
  const reasons: string[] = []
  sessions.addHook('onClose', (_session, reason) => { reasons.push(reason) })
  const session = connect(url)
  const events = record(session)
  await next(session, 'open')
  await session.close()
  await session.close()
  t.strictSame(reasons, ['deleted'])
  t.equal(session.signal.aborted, true)
  await t.rejects(session.send(1), { code: 'CLOSED' })

  const other = connect(url)
  await next(other, 'open')
  const closed = next(other, 'close')
  await (await sessions.find(other.sessionId ?? ''))?.close('bye')
  t.strictSame(await closed, { reason: 'bye' })
  t.equal(other.state, 'closed')
  t.strictSame(events.map(([name]) => name), ['open', 'close'])
})

eachClient(t, 'a stream that is lost comes back, with what was sent meanwhile', async (t, connect) => {
  const { sessions, port } = await serve(t, { retry: 1 }, { fastify: forced })
  const proxy = await faultProxy(t, port)
  const session = connect(proxy.url)
  const events = record(session)
  session.on('message', data => { events.push(['message', data]) })
  await next(session, 'open')
  sessions.addHook('onDisconnect', session => session.send('meanwhile'))
  const message = next(session, 'message')
  proxy.strike('cut')
  await within(message, 'the message')
  t.strictSame(events.map(([name]) => name), ['open', 'disconnect', 'resume', 'message'])
})

eachClient(t, 'a gap is told, and a session that the server no longer knows begins anew', async (t, connect) => {
  const { sessions, port } = await serve(t, { retry: 50, log: { entries: 2 } }, { fastify: forced })
  const proxy = await faultProxy(t, port)
  const session = connect(proxy.url)
  const events = record(session)
  await next(session, 'open')
  const first = session.sessionId ?? ''
  sessions.addHook('onDisconnect', async session => { for (let n = 0; n < 5; n++) await session.send(n) })
  const gap = next(session, 'gap')
  proxy.strike('cut')
  t.match(await within(gap, 'the gap'), { reason: 'count' })
  const reset = next(session, 'reset')
  const lost = await sessions.find(first)
  if (lost !== undefined) await sessions.discard(lost, 'lost')
  proxy.strike('cut')
  t.match(await within(reset, 'the reset'), { resumed: false, previous: 'unknown' })
  t.not(session.sessionId, first)
  t.strictSame(events.map(([name]) => name), ['open', 'disconnect', 'resume', 'gap', 'disconnect', 'reset'])
})

eachClient(t, 'what a listener throws is an uncaught error, and the session and its other listeners go on', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: forced })
  const session = connect(url)
  session.on('open', () => { throw new Error('mine') })
  const uncaught: unknown[] = []
  const catchOne = (error: unknown): void => { uncaught.push(error) }
  const others = process.listeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', catchOne)
  await next(session, 'open')
  await until(() => uncaught.length > 0, 'the error')
  process.off('uncaughtException', catchOne)
  for (const other of others) process.on('uncaughtException', other)
  t.match(uncaught, [{ message: 'mine' }])
  const message = next(session, 'message')
  await (await sessions.find(session.sessionId ?? ''))?.send(1)
  t.equal(await message, 1)
})

eachClient(t, 'a listener that listens anew for each event hears each once; one that another has ended hears nothing', async (t, connect) => {
  const server = await scriptedServer(t, [open(`${welcome()}data: 1\n\ndata: 2\n\n${CLOSE}`)])
  const session = connect(server.url)
  const heard: unknown[] = []
  const listen = (): void => {
    const off = session.on('message', data => {
      off()
      heard.push(data)
      if (heard.length < 10) listen()
    })
  }
  listen()
  session.on('open', () => { off() })
  const off = session.on('open', () => { t.fail('heard what it listens to no more') })
  await next(session, 'close')
  t.strictSame(heard, [1, 2])
})

eachClient(t, 'a listener that closes the session hears nothing more, though it has come', async (t, connect) => {
  const server = await scriptedServer(t, [open(`${welcome()}data: 1\n\ndata: 2\n\n`)])
  const session = connect(server.url)
  const heard: unknown[] = []
  session.on('message', data => {
    heard.push(data)
    session.close()
  })
  await next(session, 'close')
  await until(() => server.requests.length === 2, 'the farewell')
  t.strictSame(heard, [1])
  t.match(server.requests[1], { method: 'DELETE', headers: { 'x-session-id': 's' } })
})

eachClient(t, 'URL and headers are asked for anew each time, and what they throw is tried again', async (t, connect) => {
  const tokens: unknown[] = []
  const { port } = await serve(t, { retry: 1 }, {
    fastify: forced,
    before: app => { app.addHook('onRequest', async ({ method, headers }) => { tokens.push([method, headers.authorization]) }) }
  })
  const proxy = await faultProxy(t, port)
  let asked = 0
  const session = connect(proxy.url, {
    headers: async () => {
      if (++asked === 1) throw new Error('no token yet')
      return { authorization: `${asked}` }
    }
  })
  t.match(await next(session, 'error'), { message: 'no token yet' })
  await next(session, 'open')
  await session.send({ text: 'x' })
  const resumed = next(session, 'resume')
  proxy.connections[0]?.client.destroy()
  await within(resumed, 'the stream to be back')
  t.strictSame(tokens, [['GET', '2'], ['POST', '3'], ['GET', '4']])
})

eachClient(t, 'request resolves with what the handler has returned, whatever that is, and whatever the status', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: forced })
  const answers = [undefined, null, 0, 'text', { status: 'accepted', job: 7 }, { status: 'done' }]
  sessions.handle('ask', (_session, data, { reply }) => {
    const [index, status] = data as [number, number]
    if (status !== 0) reply.code(status)
    return answers[index]
  })
  const session = connect(url)
  for (const status of [0, 200, 201, 202]) {
    for (const [index, answer] of answers.entries()) t.strictSame(await session.request('ask', [index, status]), answer, `${status}`)
  }
})

eachClient(t, 'requests go where the options say, with what they say', async (t, connect) => {
  const requests: Array<[url: string, init: RequestInit]> = []
  const server = await scriptedServer(t, [open(welcome())], [status(200, {}, [{ status: 202, body: { status: 'accepted' } }])])
  const session = connect(`${server.url}/chat/`, {
    paths: { downward: '/listen', upward: '/say' },
    credentials: 'include',
    headers: { 'x-mine': 'yes', 'x-session-id': 'not mine to say' },
    fetch: (url, init) => {
      requests.push([url, init])
      return fetch(url, init)
    }
  })
  t.equal(await session.emit('a', 1), undefined)
  await session.close()
  const common = { credentials: 'include', headers: { 'x-mine': 'yes' } }
  t.match(requests, [
    [`${server.url}/chat/listen`, { ...common, cache: 'no-store', headers: { ...common.headers, accept: 'text/event-stream' } }],
    [`${server.url}/chat/say`, { ...common, method: 'POST', headers: { ...common.headers, 'content-type': 'application/x-ndjson' } }],
    [`${server.url}/chat/listen`, { ...common, method: 'DELETE' }]
  ])
  t.match(server.requests, [{ method: 'GET' }, { method: 'POST', body: '{"event":"a","data":1,"id":"0"}' }, { method: 'DELETE' }])
  t.strictSame(server.requests.map(({ headers }) => headers['x-session-id']), ['not mine to say', 's', 's'])
})

eachClient(t, 'nothing is said of credentials where the options say nothing', async (t, connect) => {
  const asked = signal<RequestInit>()
  connect('', {
    fetch: async (_url, init) => {
      asked.resolve(init)
      return new Response(null, { status: 204 })
    }
  })
  t.notOk('credentials' in await within(asked.promise, 'the request'))
})

eachClient(t, 'who ends listening goes on to hear with another listening of the same function', async (t, connect) => {
  const server = await scriptedServer(t, [open(welcome())])
  const session = connect(server.url)
  let heard = 0
  const hear = (): void => { heard++ }
  const off = session.on('open', hear)
  session.on('open', hear)
  off()
  await next(session, 'open')
  t.equal(heard, 1)
})

eachClient(t, 'a listener that is ended hears nothing more', async (t, connect) => {
  const server = await scriptedServer(t, [stream(welcome(), 'data: 1\n\n', 'data: 2\n\n', CLOSE)])
  const session = connect(server.url)
  const heard: unknown[] = []
  const end = session.on('message', data => {
    heard.push(data)
    end()
  })
  await next(session, 'close')
  t.strictSame(heard, [1])
})

eachClient(t, 'the state tells how it stands with the stream', async (t, connect) => {
  const server = await scriptedServer(t, [stream(welcome()), stream(welcome(true), CLOSE)])
  const session = connect(server.url)
  const states: string[] = [session.state]
  for (const event of ['open', 'disconnect', 'resume', 'close'] as const) session.on(event, () => { states.push(session.state) })
  await next(session, 'close')
  t.strictSame(states, ['connecting', 'open', 'disconnected', 'open', 'closed'])
})

eachClient(t, 'a stream that is silent for 2.5 heartbeats is given up, and replaced at once', async (t, connect) => {
  const server = await scriptedServer(t, [
    open(welcome(false, 's', { heartbeatInterval: 40 }), ': heartbeat\n'),
    open(welcome(true))
  ])
  const session = connect(server.url)
  await next(session, 'open')
  const lost = next(session, 'disconnect')
  const resumed = next(session, 'resume')
  t.match(await within(lost, 'the loss'), { error: { code: 'SILENT' } })
  await within(resumed, 'the stream to be back')
  const [first, second] = server.requests.map(({ at }) => at) as [number, number]
  t.ok(second - first >= 99, `${second - first} ms`)
})

t.test('the bundle has at most 4 kB compressed, imports nothing and asks for nothing of Node', t => {
  const bundle = readFileSync(new URL('../../dist/client/bundle.js', import.meta.url))
  const size = gzipSync(bundle, { level: 9 }).length
  t.ok(size <= 4096, `${size} bytes`)
  t.notMatch(bundle.toString(), /\bimport\b|\brequire\b|\bnode:|\bprocess\b|\bBuffer\b/)
  t.end()
})
