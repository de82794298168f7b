import { readFileSync } from 'node:fs'
import t from 'tap'
import { connect } from '../../lib/client/index.js'
import { testEachClient, FORCE_CLOSE, range, waitForEvent } from '../support/clients.js'
import { runSource } from '../support/run-source.js'
import { serve } from '../support/server.js'
import { withTimeout } from '../support/wait.js'
import { streamResponse } from './support/fake-network.js'
import { openStream, scriptedServer, welcome } from './support/scripted-server.js'

testEachClient(t, 'a session works inside a proxy, and its methods work without it', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  sessions.handle('add', (_session, data) => (data as number[]).reduce((sum, n) => sum + n))
  const session = new Proxy(connect(url), {})
  const { on, request, close } = session
  const opened = new Promise(resolve => { on('open', resolve) })
  const iterator = session[Symbol.asyncIterator]()
  const next = iterator.next()
  await withTimeout(opened, 'the session')
  t.equal(session.state, 'open')
  t.equal(await request('add', [1, 2]), 3)
  await sessions.broadcast('news', 1)
  t.strictSame((await withTimeout(next, 'the event')).value, { event: 'news', data: 1 })
  await close()
  t.equal(session.state, 'closed')
  t.equal(session.signal.aborted, true)
})

testEachClient(t, 'a copy of the session or a log of it does not contain its id', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome(false, 'secret'))])
  const session = connect(server.url)
  await waitForEvent(session, 'open')
  t.equal(session.sessionId, 'secret')
  t.notMatch(JSON.stringify({ ...session }) + JSON.stringify(session), /secret/)
})

t.test('works with an AbortSignal that has no reason, timeout, any and throwIfAborted', async t => {
  const { sessions, url } = await serve(t, { retry: 1 }, { fastify: FORCE_CLOSE })
  sessions.handle('hi', () => 'hello')
  const { code, output } = await runSource(t, `
    import { connect } from './dist/client/bundle.js'
    delete AbortSignal.timeout
    delete AbortSignal.any
    delete AbortSignal.prototype.throwIfAborted
    Object.defineProperty(AbortSignal.prototype, 'reason', { value: undefined })
    const session = connect('${url}')
    console.log(await session.request('hi'))
    const controller = new AbortController()
    const aborted = session.request('hi', 1, { signal: controller.signal }).catch(error => error.message)
    controller.abort()
    console.log(await aborted)
    console.log(await session.request('hi', 1, { signal: controller.signal }).catch(error => error.message))
    await session.close()
    console.log(session.state)`)
  t.equal(output, 'hello\nAborted\nAborted\nclosed\n')
  t.equal(code, 0)
  t.equal(sessions.size, 0)
})

t.test('prints once that the module for shared sessions cannot be loaded, and opens a session of its own', async t => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  sessions.handle('hi', () => 'hello')
  const { code, output } = await runSource(t, `
    import { register } from 'node:module'
    register('data:text/javascript,' + encodeURIComponent(\`export async function resolve (specifier, context, next) {
      if (specifier === './shared-fetch.js') throw new Error('not found')
      return await next(specifier, context)
    }\`))
    const { connect } = await import('./lib/client/index.js')
    console.error = error => { console.log(error.code, error.message, error.cause.message) }
    const session = connect('${url}', { shared: true })
    console.log(await session.request('hi'))
    await session.close()`)
  t.equal(output, 'NOT_SHARED Cannot load shared-fetch.js not found\nhello\n')
  t.equal(code, 0)
  t.equal(sessions.size, 0)
})

t.test('the bundle uses no syntax and no function that Safari 15.4 lacks', t => {
  const bundle = readFileSync(new URL('../../dist/client/bundle.js', import.meta.url), 'utf8')
  t.notMatch(bundle, /static\s*\{|\(\?<[=!]|AbortSignal\.(timeout|any)|withResolvers|structuredClone|\.toSorted|\.findLast|Object\.groupBy/)
  t.end()
})

testEachClient(t, 'many requests with one signal add one listener to it', async (t, connect) => {
  const warnings: Error[] = []
  const onWarning = (warning: Error): void => { warnings.push(warning) }
  process.on('warning', onWarning)
  t.teardown(() => { process.off('warning', onWarning) })
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  sessions.handle('echo', (_session, data) => data)
  const { signal } = new AbortController()
  for (const session of [connect(url), connect(url)]) {
    t.strictSame(await Promise.all(range(20).map(n => session.request('echo', n, { signal }))), range(20))
  }
  await new Promise(resolve => { setImmediate(resolve) })
  t.strictSame(warnings, [])
})

t.test('an iterator that is not read stops with BUFFER_FULL, and keeps no events', async t => {
  let write = (_text: string): void => {}
  const session = connect('', { fetch: async () => streamResponse(welcome(), writeMore => { write = writeMore }) })
  t.teardown(() => { session.close() })
  const large = `data: "${'x'.repeat(2 ** 21)}"\n\n`
  const huge = `data: "${'x'.repeat(2 ** 23)}"\n\n`
  const iterator = session[Symbol.asyncIterator]()
  const first = iterator.next()
  await waitForEvent(session, 'open')
  let received = 0
  session.on('message', () => { received++ })
  const receive = async (text: string): Promise<void> => {
    const message = waitForEvent(session, 'message')
    write(text)
    await message
  }
  for (const text of [large, huge]) await receive(text)
  await withTimeout(first, 'the first event')
  t.equal((await withTimeout(iterator.next(), 'the event')).done, false, 'one event may have any size')
  for (const text of [large, large, large]) await receive(text)
  await t.rejects(iterator.next(), { code: 'BUFFER_FULL' })
  t.equal(received, 5)
  t.equal(session.state, 'open')
})

t.test('a loop reads an event of any size, also if others follow in the same chunk', async t => {
  let write = (_text: string): void => {}
  const session = connect('', { fetch: async () => streamResponse(welcome(), writeMore => { write = writeMore }) })
  t.teardown(() => { session.close() })
  const iterator = session[Symbol.asyncIterator]()
  const first = iterator.next()
  await waitForEvent(session, 'open')
  const large = 'x'.repeat(2 ** 22)
  write(`data: "${large}"\n\ndata: 1\n\n`)
  t.strictSame((await withTimeout(first, 'the event')).value, { event: 'message', data: large })
  t.strictSame((await withTimeout(iterator.next(), 'the event')).value, { event: 'message', data: 1 })
})
