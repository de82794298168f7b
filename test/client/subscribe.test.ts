import t from 'tap'
import { testEachClient, FORCE_CLOSE, waitForEvent, range } from '../support/clients.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { serve } from '../support/server.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { openStream, respond, scriptedServer, welcome } from './support/scripted-server.js'

testEachClient(t, 'the loop receives every value, and sends messages meanwhile', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const enough = deferred()
  sessions.handle('ask', async function * (_session, data) {
    yield data
    await enough.promise
    yield 'end'
  })
  sessions.handle('enough', () => { enough.resolve() })
  const session = connect(url)
  const values: unknown[] = []
  for await (const value of session.subscribe('ask', 'why')) {
    values.push(value)
    await session.emit('enough')
  }
  t.strictSame(values, ['why', 'end'])
})

testEachClient(t, 'lost connections lose and repeat no value', async (t, connect) => {
  const { sessions, url } = await serve(t, { retry: [10, 20] }, { fastify: FORCE_CLOSE })
  const proxy = await startFaultProxy(t, Number(new URL(url).port))
  const reached = deferred()
  sessions.handle('count', async function * () {
    for (const n of range(50)) {
      if (n === 25) await reached.promise
      yield n
    }
  })
  const session = connect(`http://127.0.0.1:${proxy.port}`)
  const values: unknown[] = []
  for await (const value of session.subscribe('count')) {
    values.push(value)
    if (value !== 20) continue
    const resumed = waitForEvent(session, 'resume')
    proxy.setDown(true)
    proxy.setDown(false)
    await withTimeout(resumed, 'the new stream')
    reached.resolve()
  }
  t.strictSame(values, range(50))
})

testEachClient(t, 'the end of the loop, the signal and the close of the session abort the signal of the handler', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  let closed = deferred()
  sessions.handle('message', () => {})
  sessions.handle('endless', async function * (_session, _data, { signal }) {
    try {
      yield 1
      await new Promise(resolve => { signal.addEventListener('abort', resolve) })
    } finally {
      closed.resolve()
    }
  })
  const session = connect(url)
  for await (const value of session.subscribe('endless')) if (value === 1) break
  await withTimeout(closed.promise, 'the finally block after break')
  closed = deferred()
  const controller = new AbortController()
  await t.rejects(async () => {
    for await (const value of session.subscribe('endless', null, { signal: controller.signal })) if (value === 1) controller.abort(new Error('enough'))
  }, { message: 'enough' })
  await withTimeout(closed.promise, 'the finally block after the abort')
  await t.rejects(session.subscribe('endless', null, { signal: controller.signal }).next(), { message: 'enough' })
  closed = deferred()
  await t.rejects(async () => {
    for await (const value of session.subscribe('endless')) {
      if (value !== 1) continue
      // Its response arrives after the one to the message that has started the handler.
      await session.send('')
      session.close()
    }
  }, { code: 'CLOSED' })
  await withTimeout(closed.promise, 'the finally block after the close')
  await t.rejects(session.subscribe('endless').next(), { code: 'CLOSED' })
})

testEachClient(t, 'an error before the first value, and one of the generator, throw with the code', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  sessions.handle('fail', async function * () {
    yield 1
    throw Object.assign(new Error('no'), { statusCode: 409, code: 'NO' })
  })
  const session = connect(url)
  await t.rejects(session.subscribe('unknown').next(), { code: 'FST_SSE_EVENT_UNKNOWN', status: 404 })
  const values = session.subscribe('fail')
  t.strictSame(await values.next(), { value: 1, done: false })
  await t.rejects(values.next(), { code: 'NO', status: 409, message: 'no' })
})

testEachClient(t, 'a gap, a new session and a lost handler end the loop with an error, and other events do not', async (t, connect) => {
  for (const [frames, code] of [
    ['event: gap\ndata: {"after":1,"resumedAt":2,"reason":"count"}\n\n', 'INCOMPLETE'],
    [welcome(false, 't'), 'INCOMPLETE'],
    ['event: part\ndata: {"message":"s0","end":{"status":"lost"}}\n\n', 'HANDLER_LOST']
  ] as const) {
    const server = await scriptedServer(t, [openStream(welcome() + 'data: 1\n\nevent: part\ndata: {"run":"s0","data":0}\n\nevent: part\ndata: {"message":"s0","data":1}\n\n' + frames)], [respond(200, {}, [{ status: 202, body: {} }])])
    const values = connect(server.url).subscribe('ask')
    t.strictSame(await withTimeout(values.next(), 'the value'), { value: 1, done: false })
    await t.rejects(withTimeout(values.next(), 'the end'), { code })
  }
})

testEachClient(t, 'parts are no events of an iterator, and those of runs reach listeners', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const session = connect(url)
  const received: unknown[] = []
  const events: unknown[] = []
  session.on('part', ({ run, data }) => { received.push([run, data]) })
  const iterating = (async () => { for await (const { event } of session) events.push(event) })()
  await waitForEvent(session, 'open')
  const serverSession = await sessions.find(session.sessionId ?? '')
  await serverSession?.follow(await sessions.runs.start('a', {}, function * () { yield 1 }))
  await serverSession?.send('x')
  await waitUntil(() => events.length === 1, 'the event')
  t.strictSame(received, [['a', 1], ['a', undefined]])
  await session.close()
  await iterating
  t.strictSame(events, ['message'])
})
