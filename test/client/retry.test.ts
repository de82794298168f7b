import { mock } from 'node:test'
import t, { type Test } from 'tap'
import { eachClient, next, record } from '../support/clients.js'
import { open, scriptedServer, welcome } from './support/scripted-server.js'
import { until, within } from '../support/wait.js'

/**
 * Stops the clock, which no test need wait minutes for, and stands in for the network, which does not stop with it:
 * a request is answered by what `answer` gives, and only an abort ends one that is given nothing.
 */
function still (t: Test, answer: (method: string, attempt: number) => Response | undefined): { attempts: (method: string) => number, pass: (ms: number) => Promise<void>, fetch: typeof fetch } {
  mock.timers.enable({ apis: ['setTimeout', 'Date'] })
  t.teardown(() => { mock.timers.reset() })
  const attempts = new Map<string, number>()
  return {
    attempts: method => attempts.get(method) ?? 0,
    pass: async ms => {
      mock.timers.tick(ms)
      for (let turn = 0; turn < 5; turn++) await new Promise(resolve => { setImmediate(resolve) })
    },
    fetch: async (_url, { method = 'GET', signal } = {}) => {
      const attempt = (attempts.get(method) ?? 0) + 1
      attempts.set(method, attempt)
      if (method === 'DELETE') return new Response()
      const given = answer(method, attempt)
      if (given?.body) return new Response(given.body.pipeThrough(new TransformStream(), signal ? { signal } : {}), given)
      return await new Promise<never>((_resolve, reject) => {
        signal?.addEventListener('abort', () => { reject(signal.reason) })
      })
    }
  }
}

/** An event stream that stays open. */
function streaming (text: string, more: (write: (text: string) => void) => void = () => {}): Response {
  const { readable, writable } = new TextEncoderStream()
  const writer = writable.getWriter()
  writer.write(text)
  more(text => { writer.write(text) })
  return new Response(readable, { headers: { 'content-type': 'text/event-stream' } })
}

eachClient(t, 'a POST that is not answered for 15 seconds is repeated', async (t, connect) => {
  const { fetch, attempts, pass } = still(t, (method, attempt) => {
    if (method !== 'POST') return streaming(welcome())
    return attempt === 1 ? undefined : Response.json([{ status: 200, body: 'yes' }])
  })
  const answer = connect('', { fetch }).request('a', 1)
  await until(() => attempts('POST') === 1, 'the POST')
  await pass(14_999)
  t.equal(attempts('POST'), 1)
  await pass(1)
  t.equal(attempts('POST'), 2)
  t.equal(await within(answer, 'the answer'), 'yes')
})

eachClient(t, 'the waits for another stream grow, and are short again when one was had', async (t, connect) => {
  t.intercept(Math, 'random', { value: () => 0.5 })
  const { fetch, attempts, pass } = still(t, (_method, attempt) => new Response(attempt === 4 ? welcome() : '', { headers: { 'content-type': 'text/event-stream' } }))
  connect('', { fetch })
  await pass(0)
  for (const ms of [1500, 2000, 3000, 1500]) {
    const before = attempts('GET')
    await pass(ms - 1)
    t.equal(attempts('GET'), before)
    await pass(1)
    t.equal(attempts('GET'), before + 1)
  }
})

eachClient(t, 'the waits for another POST grow, and are short again when one went well', async (t, connect) => {
  t.intercept(Math, 'random', { value: () => 0.5 })
  const { fetch, attempts, pass } = still(t, (method, attempt) => {
    if (method !== 'POST') return streaming(welcome())
    return attempt === 4 || attempt === 6 ? Response.json([{ status: 200, body: 'yes' }]) : new Response('busy', { status: 503 })
  })
  const session = connect('', { fetch })
  for (const waits of [[1500, 2000, 3000], [1500]]) {
    const answer = session.request('a', 1)
    await pass(0)
    for (const ms of waits) {
      const before = attempts('POST')
      await pass(ms - 1)
      t.equal(attempts('POST'), before)
      await pass(1)
      t.equal(attempts('POST'), before + 1)
    }
    t.equal(await within(answer, 'the answer'), 'yes')
  }
})

eachClient(t, 'a message is given up after 60 seconds, or what it was given, though its POST is under way, and is not repeated', async (t, connect) => {
  const { fetch, attempts, pass } = still(t, method => method === 'POST' ? undefined : streaming(welcome()))
  const session = connect('', { fetch })
  const failed: unknown[] = []
  session.send(1).catch(({ code }) => { failed.push([1, code]) })
  session.request('message', 2, { timeout: 20_000 }).catch(({ code }) => { failed.push([2, code]) })
  await until(() => attempts('POST') === 1, 'the POST')
  await pass(15_000)
  await pass(4999)
  t.strictSame(failed, [])
  await pass(1)
  t.strictSame(failed, [[2, 'TIMEOUT']])
  await pass(10_000)
  await pass(15_000)
  await pass(14_999)
  t.equal(failed.length, 1)
  await pass(1)
  t.strictSame(failed, [[2, 'TIMEOUT'], [1, 'TIMEOUT']])
  t.equal(attempts('POST'), 4)
  await pass(100_000)
  t.equal(attempts('POST'), 4)
})

eachClient(t, 'an attempt to connect of which nothing is heard for 37.5 seconds is given up for another at once, and that one for none', async (t, connect) => {
  const { fetch, attempts, pass } = still(t, (_method, attempt) => [undefined, new Response('busy', { status: 500 }), streaming(welcome())][attempt - 1])
  const session = connect('', { fetch })
  const events = record(session)
  await until(() => attempts('GET') === 1, 'the GET')
  await pass(37_499)
  t.strictSame(events, [])
  await pass(1)
  t.match(events, [['error', { code: 'SILENT' }], ['error', { code: 'HTTP_500' }]])
  await pass(999)
  t.equal(attempts('GET'), 2)
  await pass(30_000)
  t.match(events.slice(2), [['open']])
})

eachClient(t, 'headers that never come cost an attempt to connect, or one to send, and nothing of close()\'s five seconds more', async (t, connect) => {
  const { fetch, attempts, pass } = still(t, method => method === 'POST' ? Response.json([{ status: 200, body: 'yes' }]) : streaming(welcome()))
  const goodbye = new AbortController()
  t.intercept(AbortSignal, 'timeout', { value: () => goodbye.signal })
  let asked = 0
  const session = connect('', { fetch, headers: () => ++asked % 2 === 0 ? {} : new Promise(() => {}) })
  const events = record(session)
  const answer = session.request('a', 1)
  await pass(0)
  t.equal(asked, 1)
  await pass(37_500)
  t.match(events, [['error', { code: 'SILENT' }], ['open']])
  t.equal(asked, 3)
  await pass(15_000)
  t.equal(await within(answer, 'the answer'), 'yes')
  const closed = session.close()
  await pass(0)
  t.equal(asked, 5)
  goodbye.abort()
  await within(closed, 'the end')
  t.equal(attempts('DELETE'), 0)
})

eachClient(t, 'what one answer asks for is not asked for by the next', async (t, connect) => {
  const { fetch, attempts, pass } = still(t, (_method, attempt) => attempt === 1
    ? new Response('busy', { status: 503, headers: { 'retry-after': '100' } })
    : new Response('', { headers: { 'content-type': 'text/event-stream' } }))
  const session = connect('', { fetch })
  await next(session, 'error')
  await pass(99_999)
  t.equal(attempts('GET'), 1)
  await pass(1)
  t.equal(attempts('GET'), 2)
  await pass(31_000)
  t.equal(attempts('GET'), 3)
})

eachClient(t, 'a stream may be silent for 2.5 intervals of its heartbeats, and then another is had at once', async (t, connect) => {
  let heartbeat = (): void => {}
  const { fetch, pass } = still(t, (_method, attempt) => streaming(welcome(attempt > 1, 's', { heartbeatInterval: 10_000 }), write => {
    heartbeat = () => { write(': heartbeat\n') }
  }))
  const session = connect('', { fetch })
  const events = record(session)
  await next(session, 'open')
  await pass(24_999)
  heartbeat()
  await pass(0)
  await pass(24_999)
  t.strictSame(events.map(([name]) => name), ['open'])
  await pass(1)
  t.match(events, [['open'], ['disconnect', { error: { code: 'SILENT' } }], ['resume']])
})

eachClient(t, 'where there are no heartbeats a stream may be silent for ever', async (t, connect) => {
  const { fetch, pass } = still(t, () => streaming(welcome()))
  const session = connect('', { fetch })
  const events = record(session)
  await next(session, 'open')
  await pass(1_000_000)
  t.strictSame(events.map(([name]) => name), ['open'])
})

eachClient(t, 'a stream without heartbeats says nothing of how long the next attempt may take', async (t, connect) => {
  const { fetch, attempts, pass } = still(t, (_method, attempt) => attempt === 1 ? new Response(welcome(), { headers: { 'content-type': 'text/event-stream' } }) : undefined)
  const session = connect('', { fetch })
  await next(session, 'disconnect')
  await pass(2000)
  t.equal(attempts('GET'), 2)
  await pass(37_500)
  t.equal(attempts('GET'), 3)
})

eachClient(t, 'silence counts while there is a stream, not while the next attempt is waited for', async (t, connect) => {
  const text = `retry: 100000\n\n${welcome(false, 's', { heartbeatInterval: 1000 })}`
  const { fetch, attempts, pass } = still(t, () => new Response(text, { headers: { 'content-type': 'text/event-stream' } }))
  const session = connect('', { fetch })
  await next(session, 'disconnect')
  await pass(99_999)
  t.equal(attempts('GET'), 1)
  await pass(100_001)
  t.equal(attempts('GET'), 2)
})

eachClient(t, 'close() waits five seconds for the server\'s answer and no longer', async (t, connect) => {
  const asked: number[] = []
  const abort = new AbortController()
  t.intercept(AbortSignal, 'timeout', {
    value: (ms: number) => {
      asked.push(ms)
      return abort.signal
    }
  })
  const server = await scriptedServer(t, [open(welcome()), () => { abort.abort() }])
  const session = connect(server.url)
  await next(session, 'open')
  await within(session.close(), 'the end')
  t.strictSame(asked, [5000])
  t.equal(server.requests[1]?.method, 'DELETE')
})
