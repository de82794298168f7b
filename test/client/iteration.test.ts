import t from 'tap'
import { eachClient, forced, next, numbers } from '../support/clients.js'
import { begin, CLOSE, open, scriptedServer, status, welcome, write } from './support/scripted-server.js'
import { serve } from '../support/server.js'
import { signal, within } from '../support/wait.js'

const GAP = 'event: gap\ndata: {"after":1,"resumedAt":2,"reason":"count"}\n\n'

eachClient(t, 'an iteration gets every event once and in order, however slow, and so does one beside it', async (t, connect) => {
  const { sessions, url } = await serve(t, { log: { entries: 1000 } }, { fastify: forced })
  const session = connect(url)
  const take = async (pause: number): Promise<unknown[]> => {
    const got: unknown[] = []
    for await (const { data } of session) {
      got.push(data)
      if (got.length % pause === 0) await new Promise(resolve => { setImmediate(resolve) })
    }
    return got
  }
  const taken = Promise.all([take(1), take(7)])
  await next(session, 'open')
  for (const n of numbers(500)) await (await sessions.find(session.sessionId ?? ''))?.send(n)
  await (await sessions.find(session.sessionId ?? ''))?.close()
  t.strictSame(await within(taken, 'the end'), [numbers(500), numbers(500)])
})

eachClient(t, 'an iteration has what came since it began, and not what is the session\'s own', async (t, connect) => {
  const heard = signal()
  const server = await scriptedServer(t, [async response => {
    await begin(response, welcome(), 'event: early\ndata: 1\n\n')
    await heard.promise
    await write(response, GAP, 'event: late\ndata: 2\n\n', 'data: 3\n\n', CLOSE)
  }])
  const session = connect(server.url)
  await next(session, 'early')
  const got: unknown[] = []
  const all = (async () => { for await (const event of session) got.push(event) })()
  heard.resolve()
  await within(all, 'the end')
  t.strictSame(got, [{ event: 'late', data: 2 }, { event: 'message', data: 3 }])
})

eachClient(t, 'an iteration that a listener begins has the event that it heard, and the very next one', async (t, connect) => {
  const server = await scriptedServer(t, [open(`${welcome()}data: 1\n\ndata: 2\n\n`)])
  const session = connect(server.url)
  const events = session[Symbol.asyncIterator]()
  const second = signal<Promise<unknown>>()
  const end = session.on('message', () => {
    end()
    second.resolve(events.next())
  })
  t.match(await within(second.promise, 'the event'), { value: { data: 1 } })
  t.match(await within(events.next(), 'the event'), { value: { data: 2 } })
})

eachClient(t, 'an iteration that is left leaves the session to others, and a new one begins with what comes then', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: forced })
  const session = connect(url)
  await next(session, 'open')
  const ours = await sessions.find(session.sessionId ?? '')
  const other = (async () => {
    const got: unknown[] = []
    for await (const { data } of session) got.push(data)
    return got
  })()
  const first = async (): Promise<unknown> => {
    const events = session[Symbol.asyncIterator]()
    const { value } = await events.next()
    await events.return()
    return value?.data
  }
  const one = first()
  await ours?.send(1)
  t.equal(await within(one, 'the first event'), 1)
  const unheard = next(session, 'message')
  await ours?.send(2)
  await unheard
  const three = first()
  await ours?.send(3)
  t.equal(await within(three, 'the third event'), 3)
  t.equal(session.state, 'open')
  await ours?.close()
  t.strictSame(await within(other, 'the end'), [1, 2, 3])
})

eachClient(t, 'an iteration of a session that is over ends at once, with the session\'s error if there was one', async (t, connect) => {
  const server = await scriptedServer(t, [status(401), status(204)])
  for (const outcome of ['HTTP_401', true]) {
    const session = connect(server.url)
    await next(session, 'close')
    const end = session[Symbol.asyncIterator]().next().then(({ done }) => done, (error: { code: string }) => error.code)
    t.equal(await within(end, 'the end'), outcome)
  }
})

eachClient(t, 'what came before the end is had first, then the error', async (t, connect) => {
  const server = await scriptedServer(t, [async response => { (await begin(response, `${welcome()}data: 1\n\ndata: 2\n\n`)).end() }, status(403)])
  const got: unknown[] = []
  const session = connect(server.url)
  await t.rejects(within((async () => {
    for await (const { data } of session) {
      got.push(data)
      if (data === 1) await next(session, 'close')
    }
  })(), 'the end'), { code: 'HTTP_403' })
  t.strictSame(got, [1, 2])
})
