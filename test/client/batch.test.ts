import t from 'tap'
import { testEachClient, FORCE_CLOSE, range } from '../support/clients.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { echo, isPost, messagesOf, openStream, respond, scriptedServer, welcome, type Responder } from './support/scripted-server.js'

testEachClient(t, 'splits a batch that the server rejects, and fails only the invalid messages', async (t, connect) => {
  const { sessions, url } = await serve(t, { maxWaitingMessages: 3 }, { fastify: FORCE_CLOSE })
  const handled: unknown[] = []
  sessions.handle('message', (_session, data) => { handled.push(data) })
  const session = connect(url)
  const large = session.send('x'.repeat(2 ** 21))
  const invalid = session.send(JSON.parse('{"__proto__":1}'))
  const rest = Promise.all(range(20).map(n => session.send(n)))
  await t.rejects(large, { code: 'FST_ERR_CTP_BODY_TOO_LARGE' })
  await t.rejects(invalid, { code: 'FST_ERR_CTP_INVALID_JSON_BODY' })
  await rest
  t.strictSame(handled, range(20))
})

testEachClient(t, 'limits a batch to 256 Ki characters, or to one larger message', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome())], Array<Responder>(5).fill(echo))
  const session = connect(server.url)
  const sizes = [100_000, 100_000, 100_000, 300_000, 1, 2]
  await Promise.all(sizes.map(size => session.send('x'.repeat(size))))
  t.strictSame(server.requests.filter(isPost).map(request => messagesOf(request).map(({ data }) => String(data).length)), [[100_000, 100_000], [100_000], [300_000], [1, 2]])
})

testEachClient(t, 'halves the batch limit after a rejected batch, and doubles it after an accepted one', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome())], [respond(413), respond(400), echo, echo, echo])
  const session = connect(server.url)
  t.strictSame(await Promise.all(range(16).map(n => session.request('a', n))), range(16))
  t.strictSame(server.requests.filter(isPost).map(request => messagesOf(request).length), [16, 8, 4, 8, 4])
})

testEachClient(t, 'fails all messages of a batch after a permanent error, and no later message', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome())], [respond(401, {}, { code: 'NO_TOKEN', message: 'Log in' }), respond(304), echo])
  const session = connect(server.url)
  const errors = await Promise.all([1, 2].map(async n => await session.request('a', n).catch((error: unknown) => error)))
  matchList(t, errors, [1, 2].map(() => ({ name: 'ClientError', code: 'NO_TOKEN', message: 'Log in', status: 401 })))
  t.equal(server.requests.filter(isPost).length, 1)
  await t.rejects(session.request('a', 3), { code: 'HTTP_304', status: 304 })
  t.equal(await session.request('a', 4), 4)
})
