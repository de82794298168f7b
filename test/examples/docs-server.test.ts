import t, { type Test } from 'tap'
import { request } from 'undici'
import type { Session } from '../../lib/index.js'
import { serve, type TestServer } from '../support/server.js'
import { openStream, postMessage, type ClientStream } from '../support/http-client.js'
import { deferred, waitUntil } from '../support/wait.js'
import { block } from './docs.js'
import { createFolder, runFragment, startApp } from './docs-run.js'
import { runPageScript } from './support/page-script.js'

async function open (t: Test, { sessions, url }: TestServer): Promise<{ stream: ClientStream, session: Session }> {
  const stream = await openStream(t, url)
  const session = await sessions.find(stream.sessionId)
  if (session === undefined) throw new Error('There is no session')
  return { stream, session }
}

const received = ({ events }: ClientStream): unknown[] => events.slice(1).map(({ event, data }) => [event, data])

t.test('a hook that is added before the registration guards the routes', async t => {
  const url = await startApp(t, createFolder(t)('register.js', block('docs/server.md', 'register')))
  for (const [method, path] of [['GET', '/downward'], ['POST', '/upward'], ['POST', '/upward/say'], ['DELETE', '/downward']] as const) {
    t.equal((await request(`${url}/chat${path}`, { method })).statusCode, 401, `${method} ${path}`)
  }
  const headers = { authorization: 'me' }
  const { sessionId } = await openStream(t, url, { path: '/chat/downward', headers })
  t.equal((await postMessage(url, sessionId, { text: 'hi' }, { path: '/chat/upward', headers })).status, 201)
})

t.test('the hooks run', async t => {
  const logged: string[] = []
  const write = (line: string): void => {
    const { msg } = JSON.parse(line) as { msg: string }
    if (msg.startsWith('the ')) logged.push(msg)
  }
  const served = await serve(t, {}, { fastify: { logger: { stream: { write } } } })
  await runFragment(block('docs/server.md', 'hooks'), { app: served.app })
  const { stream, session } = await open(t, served)
  t.match(stream.events[0]?.data, { greeting: 'Welcome!' })
  t.strictSame(session.channels, ['lobby'])
  t.match(await postMessage(served.url, session.id, 1, { event: 'other' }), { status: 200, body: { unhandled: 'other' } })
  stream.destroy()
  await waitUntil(() => logged.length === 2, 'onDisconnect')
  const resumed = await openStream(t, served.url, { headers: { 'x-session-id': session.id } })
  t.match(resumed.events[0]?.data, { greeting: 'Welcome back!' })
  await session.close()
  t.strictSame(logged, ['the session has joined', 'the stream is lost', 'the session has left', 'the session is closed'])
})

t.test('a client that returns receives the latest event of each key', async t => {
  const served = await serve(t)
  const { stream, session } = await open(t, served)
  await session.join('map')
  stream.destroy()
  await waitUntil(() => !session.connected, 'the disconnect')
  const run = (): Promise<unknown> => runFragment(block('docs/server.md', 'latest'), { app: served.app, session })
  await run()
  await run()
  const resumed = await openStream(t, served.url, { headers: { 'last-event-id': stream.events.at(-1)?.id ?? '' } })
  await resumed.waitFor(({ event }) => event === 'prices')
  t.strictSame(received(resumed), [['progress', { percent: 40 }], ['position', { who: 'ann', x: 3 }], ['prices', { tea: 2.5 }]])
})

t.test('a page shows who is in a channel', async t => {
  const served = await serve(t)
  await runFragment(block('docs/server.md', 'presence'), { app: served.app })
  const ann = await open(t, served)
  const bob = await open(t, served)
  const names = (): unknown => ann.stream.events.filter(({ event }) => event === 'people').at(-1)?.data
  for (const [{ session }, name] of [[ann, 'Ann'], [bob, 'Bob']] as const) {
    await session.update({ name })
    await session.join('room')
  }
  await waitUntil(() => JSON.stringify(names()) === '["Ann","Bob"]', 'both names')
  await bob.session.close()
  await waitUntil(() => JSON.stringify(names()) === '["Ann"]', 'one name')
})

t.test('the handlers respond, and data that does not match the schema is rejected', async t => {
  const served = await serve(t)
  const { app, url } = served
  await runFragment(block('docs/server.md', 'rename'), { app })
  await runFragment(block('docs/server.md', 'schema'), { app })
  const { stream, session } = await open(t, served)
  await session.join('lobby')
  t.match(await postMessage(url, session.id, '"admin"', { event: 'rename' }), { status: 409, body: { error: 'This name is taken' } })
  t.match(await postMessage(url, session.id, '"bob"', { event: 'rename' }), { status: 202, body: { status: 'accepted' } })
  t.equal(session.data.name, 'bob')
  t.match(await postMessage(url, session.id, {}, { event: 'say' }), { status: 400, body: { code: 'FST_ERR_VALIDATION' } })
  t.equal((await postMessage(url, session.id, { text: 'hi', more: true }, { event: 'say' })).status, 202)
  await stream.waitFor(({ event }) => event === 'said')
  t.strictSame(received(stream), [['said', { text: 'hi' }]])
})

t.test('the type provider gives the data its type', async t => {
  const served = await serve(t)
  const file = createFolder(t)('type-provider.ts', block('docs/server.md', 'type-provider'))
  const { addHandlers } = await import(file) as { addHandlers: (app: unknown) => void }
  addHandlers(served.app)
  const { session } = await open(t, served)
  t.equal((await postMessage(served.url, session.id, { name: 'ann' }, { event: 'name' })).status, 202)
  t.equal(session.data.name, 'ANN')
})

t.test('the example calls for sessions, channels, broadcasts and streams send their events', async t => {
  const served = await serve(t)
  const { app } = served
  const { stream, session } = await open(t, served)
  const other = await open(t, served)
  await other.session.join('room')
  await session.join('room')
  const names = { app, session }
  for (const code of [block('docs/server.md', 'find'), block('docs/server.md', 'channel'), block('docs/server.md', 'broadcast'), block('docs/server.md', 'stream'), block('docs/server.md', 'session')]) {
    await runFragment(code, names)
  }
  await stream.waitFor(({ event }) => event === 'close')
  t.strictSame(received(stream), [
    ['notice', { text: 'Your export is ready' }],
    ['typing', { who: 'ann' }],
    ['news', { headline: 'We are open' }],
    ['token', 'All'],
    ['token', ' is'],
    ['token', ' well'],
    ['message', { text: 'hi' }],
    ['typing', { who: 'ann' }],
    ['close', { reason: 'bye' }]
  ])
  t.strictSame(session.data, { name: 'ann' })
  await other.stream.waitFor(({ data }) => (data as { headline?: string }).headline === 'Somebody arrived')
  t.strictSame(received(other.stream).slice(0, 2), [['typing', { who: 'ann' }], ['typing', { who: 'bob' }]])
})

t.test('the example of a channel history returns the event that was sent before the join', async t => {
  const served = await serve(t)
  const { stream, session } = await open(t, served)
  const code = block('docs/server.md', 'history')
  await runFragment(`${code}\nawait session.emit('history', history)`, { app: served.app, session })
  const expected = [{ event: 'said', data: { text: 'Is anybody here?' } }]
  await stream.waitFor(({ event }) => event === 'history')
  t.strictSame(received(stream), [['history', expected]])
  t.ok(code.includes("// [{ event: 'said', data: { text: 'Is anybody here?' } }]"))
})

t.test('a later message does not wait for a stream that a handler does not await', async t => {
  const served = await serve(t)
  const end = deferred()
  const answer = async function * (): AsyncGenerator<string> {
    yield 'first'
    await end.promise
    yield 'last'
  }
  await runFragment(block('docs/server.md', 'background-stream'), { app: served.app, answer })
  const { stream, session } = await open(t, served)
  t.equal((await postMessage(served.url, session.id, {}, { event: 'generate' })).status, 202)
  await stream.waitFor(({ data }) => data === 'first')
  t.equal((await postMessage(served.url, session.id, { text: 'next' })).status, 201)
  end.resolve()
  await stream.waitFor(({ data }) => data === 'last')
})

t.test('other messages of the session are handled while a concurrent handler runs', async t => {
  const served = await serve(t)
  const end = deferred()
  const search = async (text: string): Promise<unknown> => {
    await end.promise
    return { found: text }
  }
  await runFragment(block('docs/server.md', 'concurrent'), { app: served.app, search })
  const { session } = await open(t, served)
  const found = postMessage(served.url, session.id, '"tea"', { event: 'search' })
  t.equal((await postMessage(served.url, session.id, { text: 'next' })).status, 201)
  end.resolve()
  t.strictSame((await found).body, { found: 'tea' })
})

t.test('a page reads the values of a handler that streams, with EventSource and fetch', async t => {
  const url = await startApp(t, createFolder(t)('streaming.ts', block('docs/server.md', 'streaming')))
  const { printed, value: stop } = runPageScript(t, url, `${block('docs/server.md', 'streaming-page')}\nreturn stop`)
  await waitUntil(() => printed.length === 5, 'the end')
  t.strictSame(printed.map(([, value]) => value), ['You', 'have', 'asked:', 'why', 'finished'])
  t.equal((await (stop as () => Promise<Response>)()).status, 202)
})

t.test('server and client share a contract', async t => {
  const { sessions, url } = await serve(t)
  const { addHandlers, say } = await import(createFolder(t)('contract.ts', block('docs/server.md', 'contract'))) as {
    addHandlers: (app: unknown) => void
    say: (url: string, text: string) => Promise<number>
  }
  addHandlers(sessions)
  t.equal(await say(url, 'hello'), 5)
})

t.test('two registrations have sessions of their own', async t => {
  const url = await startApp(t, createFolder(t)('registrations.ts', block('docs/server.md', 'registrations')))
  const { sessionId, waitFor } = await openStream(t, url, { path: '/support/downward' })
  t.equal((await postMessage(url, sessionId, { text: 'hello?' }, { path: '/chat/upward' })).status, 404)
  t.equal((await postMessage(url, sessionId, { text: 'hello?' }, { path: '/support/upward' })).status, 202)
  t.equal((await waitFor(({ event }) => event === 'message')).data, 'One moment, please')
})
