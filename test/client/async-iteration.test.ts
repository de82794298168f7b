import t from 'tap'
import { testEachClient, FORCE_CLOSE, waitForEvent, range } from '../support/clients.js'
import { CLOSE_EVENT, openStream, respond, scriptedServer, startStream, welcome, writeChunks } from './support/scripted-server.js'
import { serve } from '../support/server.js'
import { deferred, withTimeout } from '../support/wait.js'

const GAP = 'event: gap\ndata: {"after":1,"resumedAt":2,"reason":"count"}\n\n'

testEachClient(t, 'two iterators with different speeds receive every event once and in order', async (t, connect) => {
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
  await waitForEvent(session, 'open')
  for (const n of range(500)) await (await sessions.find(session.sessionId ?? ''))?.send(n)
  await (await sessions.find(session.sessionId ?? ''))?.close()
  t.strictSame(await withTimeout(results, 'both iterators'), [range(500), range(500)])
})

testEachClient(t, 'an iterator receives the events after its start, without the client\'s own events', async (t, connect) => {
  const iterating = deferred()
  const server = await scriptedServer(t, [async response => {
    await startStream(response, welcome(), 'event: early\ndata: 1\n\n')
    await iterating.promise
    await writeChunks(response, GAP, 'event: late\ndata: 2\n\n', 'data: 3\n\n', CLOSE_EVENT)
  }])
  const session = connect(server.url)
  await waitForEvent(session, 'early')
  const received: unknown[] = []
  const all = (async () => { for await (const event of session) received.push(event) })()
  iterating.resolve()
  await withTimeout(all, 'the iterator')
  t.strictSame(received, [{ event: 'late', data: 2 }, { event: 'message', data: 3 }])
})

testEachClient(t, 'an iterator that a listener starts receives the event of that listener and the next one', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(`${welcome()}data: 1\n\ndata: 2\n\n`)])
  const session = connect(server.url)
  const events = session[Symbol.asyncIterator]()
  const second = deferred<Promise<unknown>>()
  const off = session.on('message', () => {
    off()
    second.resolve(events.next())
  })
  t.match(await withTimeout(second.promise, 'the event'), { value: { data: 1 } })
  t.match(await withTimeout(events.next(), 'the event'), { value: { data: 2 } })
})

testEachClient(t, 'an iterator that ends early leaves the session open, and a new one receives only later events', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const session = connect(url)
  await waitForEvent(session, 'open')
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
  t.equal(await withTimeout(one, 'the first event'), 1)
  const message = waitForEvent(session, 'message')
  await serverSession?.send(2)
  await message
  const three = first()
  await serverSession?.send(3)
  t.equal(await withTimeout(three, 'the third event'), 3)
  t.equal(session.state, 'open')
  await serverSession?.close()
  t.strictSame(await withTimeout(other, 'the other iterator'), [1, 2, 3])
})

testEachClient(t, 'an iterator of a closed session ends at once, with the error of the session if there is one', async (t, connect) => {
  const server = await scriptedServer(t, [respond(401), respond(204)])
  for (const outcome of ['HTTP_401', true]) {
    const session = connect(server.url)
    await waitForEvent(session, 'close')
    const result = session[Symbol.asyncIterator]().next().then(({ done }) => done, (error: { code: string }) => error.code)
    t.equal(await withTimeout(result, 'the iterator'), outcome)
  }
})

testEachClient(t, 'an iterator yields the remaining events before it throws the error', async (t, connect) => {
  const server = await scriptedServer(t, [async response => { (await startStream(response, `${welcome()}data: 1\n\ndata: 2\n\n`)).end() }, respond(403)])
  const received: unknown[] = []
  const session = connect(server.url)
  await t.rejects(withTimeout((async () => {
    for await (const { data } of session) {
      received.push(data)
      if (data === 1) await waitForEvent(session, 'close')
    }
  })(), 'the error'), { code: 'HTTP_403' })
  t.strictSame(received, [1, 2])
})
