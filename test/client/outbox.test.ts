import { getEventListeners } from 'node:events'
import t from 'tap'
import { StoreUnavailable } from '../../lib/index.js'
import { eachClient, forced, next, numbers } from '../support/clients.js'
import { faultProxy } from '../support/proxy.js'
import { begin, echo, isPost, lines, open, scriptedServer, status, welcome, write, type Answer } from './support/scripted-server.js'
import { serve } from '../support/server.js'
import { signal, until, within } from '../support/wait.js'

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

eachClient(t, 'a message that never left, for its headers did not come, goes to the next session', async (t, connect) => {
  const failed = signal()
  const server = await scriptedServer(t, [
    async response => {
      const stream = await begin(response, welcome())
      await failed.promise
      stream.end()
    },
    open(welcome(false, 'next'))
  ], [echo])
  let asked = 0
  const session = connect(server.url, {
    headers: () => {
      // For the POST, which follows the first GET.
      if (++asked !== 2) return {}
      failed.resolve()
      return new Promise(() => {})
    }
  })
  t.equal(await session.request('a', 7), 7)
  t.strictSame(server.requests.filter(isPost).map(({ headers }) => headers['x-session-id']), ['next'])
})

eachClient(t, 'what stands in a batch behind a message that the store has failed is handled after its repeat', async (t, connect) => {
  const { sessions, url } = await serve(t, { retry: 1 }, { fastify: forced })
  const handled: unknown[] = []
  let fails = true
  sessions.handle('a', async (_session, data) => {
    if (data === 1 && fails) {
      fails = false
      throw new StoreUnavailable()
    }
    handled.push(data)
  })
  const session = connect(url)
  await Promise.all(numbers(4).map(n => session.emit('a', n)))
  t.strictSame(handled, numbers(4))
})

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

// What is known of a message whose answer did not come.
const REFUSALS: Array<[title: string, answer: Answer, outcome: unknown]> = [
  ['answered 503', status(503), 1],
  ['answered 429', status(429), 1],
  ['refused in its batch with 429', status(200, {}, [{ status: 429, body: {} }]), 1],
  ['answered 500', status(500), 'RESET'],
  ['answered 502', status(502), 'RESET'],
  ['answered by something that is no answer', status(200, {}, {}), 'RESET'],
  ['refused in its batch with 503, by its handler', status(200, {}, [{ status: 503, body: { code: 'BUSY' }, replayed: true }]), 'BUSY']
]
for (const [title, answer, outcome] of REFUSALS) {
  eachClient(t, `of a message that was ${title} before a reset comes ${String(outcome)}`, async (t, connect) => {
    const refused = signal()
    const server = await scriptedServer(t, [
      async response => {
        await begin(response, 'retry: 100000\n\n', welcome())
        await refused.promise
        await write(response, 'retry: 1\n\n')
        response.end()
      },
      open(welcome(false, 'other'))
    ], [
      async (response, body) => {
        await answer(response, body)
        refused.resolve()
      },
      echo
    ])
    t.equal(await within(connect(server.url).request('a', 1).catch(({ code }) => code), 'the answer'), outcome)
  })
}

eachClient(t, 'a POST that hears of no session waits for the next, and goes to it', async (t, connect) => {
  const { sessions, url } = await serve(t, { retry: 1 }, { fastify: forced })
  const session = connect(url)
  await next(session, 'open')
  const lost = await sessions.find(session.sessionId ?? '')
  sessions.handle('who', ({ id }) => id)
  const reset = next(session, 'reset')
  // It is forgotten, and its stream does not end: as after a restart behind a proxy.
  t.ok(lost)
  sessions.recall = id => id === lost?.id ? undefined : Object.getPrototypeOf(sessions).recall.call(sessions, id)
  sessions.resumable = async () => undefined
  const answer = await within(session.request('who', 1), 'the answer')
  await reset
  t.equal(answer, session.sessionId)
  t.not(answer, lost?.id)
})

eachClient(t, 'Retry-After is obeyed though there is a new stream meanwhile; a wait of the client\'s own ends with it', async (t, connect) => {
  for (const [retry, headers, least] of [[1, { 'retry-after': '1' }, 995], [100_000, {}, 0]] satisfies Array<[number, Record<string, string>, number]>) {
    const refused = signal()
    const server = await scriptedServer(t, [
      async response => {
        await begin(response, `retry: ${retry}\n\n`, welcome())
        await refused.promise
        await write(response, 'retry: 1\n\n')
        response.end()
      },
      open(welcome(true))
    ], [
      async (response, body) => {
        await status(503, headers)(response, body)
        refused.resolve()
      },
      echo
    ])
    const session = connect(server.url)
    await within(session.request('a', 1), 'the answer')
    const [first, second] = server.requests.filter(isPost).map(({ at }) => at) as [number, number]
    t.ok(second - first >= least, `${second - first} ms`)
    await session.close()
  }
})

eachClient(t, 'what is sent while the network is down goes up in order when it is back, once', async (t, connect) => {
  const { sessions, port } = await serve(t, { retry: 1 }, { fastify: forced })
  const handled: unknown[] = []
  sessions.handle('message', (_session, data) => { handled.push(data) })
  const proxy = await faultProxy(t, port)
  const session = connect(proxy.url)
  await session.send(0)
  const failed = next(session, 'error')
  proxy.setDown(true)
  const sent = Promise.all(numbers(200).map(n => session.send(n + 1)))
  await failed
  proxy.setDown(false)
  await within(sent, 'the answers')
  t.strictSame(handled, numbers(201))
})

eachClient(t, 'a message that is given up while its POST is under way is not repeated, and its signal forgets it', async (t, connect) => {
  const posted = signal()
  const given = signal()
  const server = await scriptedServer(t, [open(welcome())], [
    async response => {
      posted.resolve()
      await given.promise
      response.socket?.destroy()
    },
    echo,
    echo
  ])
  const session = connect(server.url)
  const abort = new AbortController()
  const first = session.request('a', 1, { signal: abort.signal })
  await within(posted.promise, 'the POST')
  const second = session.request('a', 2, { signal: abort.signal })
  const third = session.request('a', 3)
  abort.abort('enough')
  for (const answer of [first, second]) t.equal(await answer.catch((reason: unknown) => reason), 'enough')
  given.resolve()
  t.equal(await third, 3)
  t.strictSame(server.requests.filter(isPost).map(asked => lines(asked).map(({ data }) => data)), [[1], [3]])
  const other = new AbortController()
  await session.request('a', 4, { signal: other.signal })
  t.strictSame(getEventListeners(other.signal, 'abort'), [])
})

eachClient(t, 'a POST that is under way when the session ends is given up', async (t, connect) => {
  const posted = signal()
  const gone = signal()
  const server = await scriptedServer(t, [open(welcome())], [response => {
    response.on('close', gone.resolve)
    posted.resolve()
  }])
  const session = connect(server.url)
  const answer = session.request('a', 1)
  await within(posted.promise, 'the POST')
  session.close()
  await t.rejects(answer, { code: 'CLOSED' })
  // Less long than an attempt may take.
  await within(gone.promise, 'the end of its connection')
})

eachClient(t, 'an answer makes room in the queue; it holds 1000 where nothing else is said', async (t, connect) => {
  const began = signal()
  const server = await scriptedServer(t, [async response => {
    await began.promise
    await begin(response, welcome())
  }], Array<Answer>(20).fill(echo))
  const session = connect(server.url)
  const sent = Promise.all(numbers(1000).map(n => session.request('a', n)))
  await t.rejects(session.request('a', 1000), { code: 'QUEUE_FULL', message: 'The queue exceeds maxQueued (1000); raise it' })
  began.resolve()
  t.strictSame(await sent, numbers(1000))
  t.equal(await session.request('a', 1001), 1001)
  t.strictSame(server.requests.filter(isPost).map(asked => lines(asked).length), [...Array<number>(15).fill(64), 40, 1])
})
