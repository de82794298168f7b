import t from 'tap'
import { eachClient, FORCE_CLOSE, next, range } from '../support/clients.js'
import { CLOSE_EVENT, openStream, respond, scriptedServer, startStream, welcome, writeChunks } from './support/scripted-server.js'
import { serve } from '../support/server.js'
import { signal, within } from '../support/wait.js'

const GAP = 'event: gap\ndata: {"after":1,"resumedAt":2,"reason":"count"}\n\n'

eachClient(t, 'two iterators with different speeds receive every event once and in order', async (t, connect) => {
  const { sessions, url } = await serve(t, { log: { entries: 1000 } }, { fastify: FORCE_CLOSE })
  const session = connect(url)
  const collect = async (pauseEvery: number): Promise<unknown[]> => {
    const received: unknown[] = []
    for await (const { data } of session) {
      received.push(data)
      if (received.length % pauseEvery === 0) await new Promise(resolve => { setImmediate(resolve) })
    }
    return received
  }
  const results = Promise.all([collect(1), collect(7)])
  await next(session, 'open')
  for (const n of range(500)) await (await sessions.find(session.sessionId ?? ''))?.send(n)
  await (await sessions.find(session.sessionId ?? ''))?.close()
  t.strictSame(await within(results, 'both iterators'), [range(500), range(500)])
})

eachClient(t, 'an iterator receives the events after its start, without the client\'s own events', async (t, connect) => {
  const iterating = signal()
  const server = await scriptedServer(t, [async response => {
    await startStream(response, welcome(), 'event: early\ndata: 1\n\n')
    await iterating.promise
    await writeChunks(response, GAP, 'event: late\ndata: 2\n\n', 'data: 3\n\n', CLOSE_EVENT)
  }])
  const session = connect(server.url)
  await next(session, 'early')
  const received: unknown[] = []
  const all = (async () => { for await (const event of session) received.push(event) })()
  iterating.resolve()
  await within(all, 'the iterator')
  t.strictSame(received, [{ event: 'late', data: 2 }, { event: 'message', data: 3 }])
})

eachClient(t, 'an iterator that a listener starts receives the event of that listener and the next one', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(`${welcome()}data: 1\n\ndata: 2\n\n`)])
  const session = connect(server.url)
  const events = session[Symbol.asyncIterator]()
  const second = signal<Promise<unknown>>()
  const off = session.on('message', () => {
    off()
    second.resolve(events.next())
  })
  t.match(await within(second.promise, 'the event'), { value: { data: 1 } })
  t.match(await within(events.next(), 'the event'), { value: { data: 2 } })
})

eachClient(t, 'an iterator that ends early leaves the session open, and a new one receives only later events', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const session = connect(url)
  await next(session, 'open')
  const serverSession = await sessions.find(session.sessionId ?? '')
  const other = (async () => {
    const received: unknown[] = []
    for await (const { data } of session) received.push(data)
    return received
  })()
  const first = async (): Promise<unknown> => {
    const events = session[Symbol.asyncIterator]()
    const { value } = await events.next()
    await events.return()
    return value?.data
  }
  const one = first()
  await serverSession?.send(1)
  t.equal(await within(one, 'the first event'), 1)
  const message = next(session, 'message')
  await serverSession?.send(2)
  await message
  const three = first()
  await serverSession?.send(3)
  t.equal(await within(three, 'the third event'), 3)
  t.equal(session.state, 'open')
  await serverSession?.close()
  t.strictSame(await within(other, 'the other iterator'), [1, 2, 3])
})

eachClient(t, 'an iterator of a closed session ends at once, with the error of the session if there is one', async (t, connect) => {
  const server = await scriptedServer(t, [respond(401), respond(204)])
  for (const outcome of ['HTTP_401', true]) {
    const session = connect(server.url)
    await next(session, 'close')
    const result = session[Symbol.asyncIterator]().next().then(({ done }) => done, (error: { code: string }) => error.code)
    t.equal(await within(result, 'the iterator'), outcome)
  }
})

eachClient(t, 'an iterator yields the remaining events before it throws the error', async (t, connect) => {
  const server = await scriptedServer(t, [async response => { (await startStream(response, `${welcome()}data: 1\n\ndata: 2\n\n`)).end() }, respond(403)])
  const received: unknown[] = []
  const session = connect(server.url)
  await t.rejects(within((async () => {
    for await (const { data } of session) {
      received.push(data)
      if (data === 1) await next(session, 'close')
    }
  })(), 'the error'), { code: 'HTTP_403' })
  t.strictSame(received, [1, 2])
})
