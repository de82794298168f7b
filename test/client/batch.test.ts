import t from 'tap'
import { eachClient, forced, numbers } from '../support/clients.js'
import { echo, isPost, lines, open, scriptedServer, status, welcome, type Answer } from './support/scripted-server.js'
import { serve } from '../support/server.js'

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

eachClient(t, 'a batch holds 256 Ki characters, or one message of more', async (t, connect) => {
  const server = await scriptedServer(t, [open(welcome())], Array<Answer>(5).fill(echo))
  const session = connect(server.url)
  const sizes = [100_000, 100_000, 100_000, 300_000, 1, 2]
  await Promise.all(sizes.map(size => session.send('x'.repeat(size))))
  t.strictSame(server.requests.filter(isPost).map(asked => lines(asked).map(({ data }) => String(data).length)), [[100_000, 100_000], [100_000], [300_000], [1, 2]])
})

eachClient(t, 'a batch that is too much is halved, and then grows again', async (t, connect) => {
  const server = await scriptedServer(t, [open(welcome())], [status(413), status(400), echo, echo, echo])
  const session = connect(server.url)
  t.strictSame(await Promise.all(numbers(16).map(n => session.request('a', n))), numbers(16))
  t.strictSame(server.requests.filter(isPost).map(asked => lines(asked).length), [16, 8, 4, 8, 4])
})

eachClient(t, 'a refusal that is for good fails every message of its batch, and no other', async (t, connect) => {
  const server = await scriptedServer(t, [open(welcome())], [status(401, {}, { code: 'NO_TOKEN', message: 'Log in' }), echo])
  const session = connect(server.url)
  const failed = await Promise.all([1, 2].map(async n => await session.request('a', n).catch((error: unknown) => error)))
  t.match(failed, [1, 2].map(() => ({ name: 'ClientError', code: 'NO_TOKEN', message: 'Log in', status: 401 })))
  t.equal(server.requests.filter(isPost).length, 1)
  t.equal(await session.request('a', 3), 3)
})
