import t from 'tap'
import { testEachClient, FORCE_CLOSE, waitForEvent } from '../support/clients.js'
import { serve } from '../support/server.js'

testEachClient(t, 'sends messages and receives events', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  sessions.addHook('onOpen', () => ({ text: 'hi' }))
  sessions.handle('message', async (session, data) => { await session.send(data) })
  sessions.handle('add', (_session, data) => {
    const { a, b } = data as { a: number, b: number }
    return a + b
  })
  sessions.handle('nothing', () => {})
  sessions.handle('fail', (_session, _data, { reply }) => reply.code(409).send({ code: 'TAKEN', message: 'Taken' }))
  const session = connect(url)
  t.equal(session.state, 'connecting')
  t.equal(session.sessionId, undefined)
  const opened = waitForEvent(session, 'open')
  const message = waitForEvent(session, 'message')
  await session.send({ n: 1 })
  t.match(await opened, { resumed: false, text: 'hi', sessionId: session.sessionId })
  t.equal(session.state, 'open')
  t.strictSame(await message, { n: 1 })
  t.equal(await session.request('add', { a: 1, b: 2 }), 3)
  t.equal(await session.request('nothing', {}), undefined)
  await t.rejects(session.request('fail', {}), { name: 'ClientError', code: 'TAKEN', status: 409 })
  await t.rejects(session.request('unknown', {}), { code: 'FST_SSE_EVENT_UNKNOWN', status: 404 })
})

testEachClient(t, 'request resolves with the return value of the handler, for every value and status', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const results = [undefined, null, 0, 'text', { status: 'accepted', job: 7 }, { status: 'done' }]
  sessions.handle('get', (_session, data, { reply }) => {
    const [index, status] = data as [number, number]
    if (status !== 0) reply.code(status)
    return results[index]
  })
  const session = connect(url)
  for (const status of [0, 200, 201, 202]) {
    for (const [index, result] of results.entries()) t.strictSame(await session.request('get', [index, status]), result, `${status}`)
  }
})
