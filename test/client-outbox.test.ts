import t from 'tap'
import { eachClient, forced, next } from './support/clients.js'
import { begin, open, scriptedServer, status, welcome, type Answer, type Asked } from './support/scripted-server.js'
import { serve } from './support/server.js'
import { signal, until, within } from './support/within.js'

interface Line { event: string, data: unknown, id: string }

const lines = ({ body }: Pick<Asked, 'body'>): Line[] => body.split('\n').map(line => JSON.parse(line) as Line)

/** Answers each message of a batch with its own data. */
const echo: Answer = (response, body) => {
  response.end(JSON.stringify(lines({ body }).map(({ data }) => ({ status: 200, body: data }))))
}
const isPost = ({ method }: Asked): boolean => method === 'POST'
const numbers = (count: number): number[] => Array.from({ length: count }, (_, n) => n)

eachClient(t, 'what was queued before the session goes up in order; one POST is under way, and what gathers meanwhile is one batch', async (t, connect) => {
  const first = signal()
  const server = await scriptedServer(t, [open(welcome())], [
    async (response, body) => {
      await first.promise
      await echo(response, body)
    },
    echo
  ])
  const session = connect(server.url)
  const early = Promise.all([session.request('a', 0), session.request('b', 1)])
  await until(() => server.requests.some(isPost), 'a POST')
  const late = Promise.all([2, 3, 4].map(n => session.request('c', n)))
  first.resolve()
  t.strictSame(await early, [0, 1])
  t.strictSame(await late, [2, 3, 4])
  const posts = server.requests.filter(isPost)
  t.strictSame(posts.map(lines), [
    [{ event: 'a', data: 0, id: '0' }, { event: 'b', data: 1, id: '1' }],
    [2, 3, 4].map(n => ({ event: 'c', data: n, id: `${n}` }))
  ])
  t.match(posts[0]?.headers, { 'x-session-id': 's', 'content-type': 'application/x-ndjson' })
})

const FAILURES: Array<[title: string, answer: Answer]> = [
  ['is cut before its answer', response => { response.socket?.destroy() }],
  ['is cut in its answer', response => {
    response.writeHead(200, { 'content-length': 100 })
    response.write('[{"status":200', () => { response.socket?.destroy() })
  }],
  ['is answered by something that is no answer', status(200, {}, 'Log in to the hotel')],
  ['is answered 500', status(500)],
  ['is answered 503', status(503)],
  ['is answered 429', status(429)],
  ['is refused in its batch', status(200, {}, [{ status: 503, body: {} }])]
]
for (const [title, answer] of FAILURES) {
  eachClient(t, `a message whose POST ${title} is repeated as it was`, async (t, connect) => {
    const server = await scriptedServer(t, [open(welcome())], [answer, echo])
    t.equal(await connect(server.url).request('a', 7), 7)
    const bodies = server.requests.filter(isPost).map(({ body }) => body)
    t.equal(bodies.length, 2)
    t.equal(bodies[0], bodies[1])
  })
}

eachClient(t, 'a 503 that is the handler\'s own answer is the answer', async (t, connect) => {
  const { sessions, url } = await serve(t, { retry: 1 }, { fastify: forced })
  let calls = 0
  sessions.handle('a', (_session, _data, { reply }) => {
    calls++
    reply.code(503).send({ code: 'BUSY', message: 'Busy' })
  })
  await t.rejects(connect(url).request('a', 1), { code: 'BUSY', status: 503 })
  t.equal(calls, 1)
})

eachClient(t, 'Retry-After is obeyed', async (t, connect) => {
  const server = await scriptedServer(t, [open(welcome())], [status(429, { 'retry-after': '1' }), echo])
  await connect(server.url).request('a', 1)
  const [first, second] = server.requests.filter(isPost).map(({ at }) => at) as [number, number]
  t.ok(second - first >= 995, `${second - first} ms`)
})

eachClient(t, 'a batch that is refused whole is sent in smaller ones, and only what is to blame fails', async (t, connect) => {
  const { sessions, url } = await serve(t, { maxWaitingMessages: 3 }, { fastify: forced })
  const handled: unknown[] = []
  sessions.handle('message', (_session, data) => { handled.push(data) })
  const session = connect(url)
  const large = session.send('x'.repeat(2 ** 21))
  const poisoned = session.send(JSON.parse('{"__proto__":1}'))
  const rest = Promise.all(numbers(20).map(n => session.send(n)))
  await t.rejects(large, { code: 'FST_ERR_CTP_BODY_TOO_LARGE' })
  await t.rejects(poisoned, { code: 'FST_SSE_BATCH_MALFORMED' })
  await rest
  t.strictSame(handled, numbers(20))
})

eachClient(t, 'the queue is bounded, a message has a deadline, and its signal gives it up', async (t, connect) => {
  const server = await scriptedServer(t, [() => {}])
  const session = connect(server.url, { maxQueued: 2, timeout: 50 })
  const abort = new AbortController()
  const first = session.request('a', 1, { timeout: Infinity, signal: abort.signal })
  const second = session.send(2)
  await t.rejects(session.send(3), { code: 'QUEUE_FULL' })
  await t.rejects(second, { code: 'TIMEOUT' })
  abort.abort('enough')
  t.equal(await first.catch((reason: unknown) => reason), 'enough')
  await t.rejects(session.request('a', 1, { signal: abort.signal }).catch(reason => { throw new Error(String(reason)) }), { message: 'enough' })
  await t.rejects(session.send(1n), TypeError)
  const third = session.send(4)
  await session.close()
  await t.rejects(third, { code: 'CLOSED' })
})

eachClient(t, 'after a reset, what was never sent goes to the new session, and what may have been handled fails', async (t, connect) => {
  const reached = signal()
  const server = await scriptedServer(t, [
    async response => {
      await begin(response, welcome())
      await reached.promise
      response.end()
    },
    open(welcome(false, 'other'))
  ], [() => { reached.resolve() }, echo])
  const session = connect(server.url)
  const doubtful = session.request('a', 1)
  await within(reached.promise, 'a POST')
  const fresh = session.request('a', 2)
  await t.rejects(doubtful, { code: 'RESET' })
  t.equal(await fresh, 2)
  t.match(server.requests.filter(isPost)[1]?.headers, { 'x-session-id': 'other' })
})

eachClient(t, 'a POST that hears of no session waits for the next, and goes to it', async (t, connect) => {
  const { sessions, url } = await serve(t, { retry: 1 }, { fastify: forced })
  const session = connect(url)
  await next(session, 'open')
  const lost = sessions.find(session.sessionId ?? '')
  sessions.handle('who', ({ id }) => id)
  const reset = next(session, 'reset')
  // It is forgotten, and its stream does not end: as after a restart behind a proxy.
  t.ok(lost)
  sessions.find = id => id === lost?.id ? undefined : Object.getPrototypeOf(sessions).find.call(sessions, id)
  sessions.resumable = () => undefined
  const answer = await within(session.request('who', 1), 'the answer')
  await reset
  t.equal(answer, session.sessionId)
  t.not(answer, lost?.id)
})

eachClient(t, 'X-Session-Connected: false has the stream replaced at once', async (t, connect) => {
  const server = await scriptedServer(t, [open(welcome()), open(welcome(true))], [
    response => { response.writeHead(200, { 'x-session-connected': 'false' }).end('[{"status":200,"body":1}]') }
  ])
  const session = connect(server.url)
  const resumed = next(session, 'resume')
  await session.request('a', 1)
  await within(resumed, 'the new stream')
})
