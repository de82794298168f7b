import { spawn } from 'node:child_process'
import { once } from 'node:events'
import t from 'tap'
import { trackProcess } from '../support/child-process.js'
import { needsProgram } from '../support/needs-program.js'
import { FlakyStore } from '../support/flaky-store.js'
import { openStream, postMessage } from '../support/http-client.js'
import { openRawClient } from '../support/raw-client.js'
import { serve } from '../support/server.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'
import { createFeed } from './support/feed.js'
import { dataOf, follow } from './support/run-client.js'
import { serveRuns } from './support/serve-runs.js'

const SERVER = `
import Fastify from 'fastify'
import sseSessions from './lib/index.js'
const app = Fastify()
await app.register(sseSessions)
app.get('/run', async (request, reply) => (await app.sseSessions.runs.start('a', {}, async function * ({ signal }) {
  yield 'one'
  await new Promise(resolve => { signal.addEventListener('abort', resolve) })
})).reply(request, reply))
process.once('SIGTERM', () => app.close())
console.log(await app.listen({ port: 0, host: '127.0.0.1' }) + '/run')
`

for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
  t.test(`if the server gets ${signal} during a run, the response is aborted for fetch and curl`, needsProgram('curl'), async t => {
    const server = trackProcess(t, spawn(process.execPath, ['--import=./test/support/strip-types.js', '--input-type=module', '--eval', SERVER], {
      cwd: new URL('../..', import.meta.url),
      detached: true
    }), 'the server')
    const [url] = await server.waitForOutput(/http:\S+/)
    const response = await follow(t, url)
    await response.waitFor('"one"')
    const curl = spawn('curl', ['--silent', '--no-buffer', '--max-time', '20', url])
    const exit = once(curl, 'exit')
    await withTimeout(once(curl.stdout, 'data'), 'the output of curl')
    await server.kill(signal)
    t.equal(await response.isComplete, false)
    // 18: the response is incomplete; 56: the connection was reset.
    t.ok([18, 56].includes((await withTimeout(exit, 'the exit of curl'))[0] as number))
  })
}

t.test('close() gives runs closeTimeout to end, and their readers receive the rest', async t => {
  const { app, runUrl, feed } = await serveRuns(t, { plugin: { closeTimeout: 9500 } })
  const response = await follow(t, runUrl, { method: 'POST' })
  feed.add(1)
  await response.waitFor('1')
  const closed = app.close()
  feed.add(2)
  await response.waitFor('2')
  feed.end()
  await withTimeout(closed, 'close()', 9000)
  t.equal(await response.isComplete, true)
  t.strictSame(response.events.map(({ data }) => data), ['1', '2', '{"status":"finished"}'])
})

t.test('after closeTimeout, close() stops the producers and aborts the responses', async t => {
  const { app, runs, runUrl, feed } = await serveRuns(t, { plugin: { closeTimeout: 50 } })
  const response = await follow(t, runUrl, { method: 'POST' })
  const unread = createFeed()
  await runs.start('unread', {}, unread.producer)
  const run = await runs.find('a')
  feed.add(1)
  await response.waitFor('1')
  await withTimeout(app.close(), 'close()')
  t.equal(await response.isComplete, false)
  t.strictSame(dataOf(response), ['1'])
  await withTimeout(Promise.all([feed.closed, unread.closed]), 'the end of the producers')
  t.equal(feed.signal()?.aborted, true)
  t.match(run, { status: 'lost', reason: 'shutdown' })
})

t.test('while the server closes, no run starts and no response begins', async t => {
  const { app, port, runs, runUrl, feed } = await serveRuns(t, { plugin: { closeTimeout: 9500 }, serve: { fastify: { return503OnClosing: false } } })
  const response = await follow(t, runUrl, { method: 'POST' })
  const waiting = openRawClient(t, port, { request: 'GET /run HTTP/1.1\r\n' })
  const closed = app.close()
  await waitUntil(() => runs.start('b', {}, () => [1]).then(() => false, () => true), 'the start of close()')
  await t.rejects(runs.start('b', {}, () => [1]), { code: 'FST_SSE_CLOSING', statusCode: 503 })
  waiting.socket.write('Host: localhost\r\n\r\n')
  await waiting.waitFor('FST_SSE_CLOSING')
  feed.end()
  await closed
  t.equal(await response.isComplete, true)
})

t.test('a run whose start is in progress when the server closes has closeTimeout to end', async t => {
  const [starting, gate] = [deferred(), deferred()]
  const store = new FlakyStore()
  const { app, runs, feed } = await serveRuns(t, { plugin: { closeTimeout: 9500, store: store.createStore } })
  store.delay = async name => {
    if (name !== 'start') return
    starting.resolve()
    await gate.promise
  }
  const started = runs.start('b', {}, feed.producer)
  await withTimeout(starting.promise, 'the call of the store')
  const closed = app.close()
  await waitUntil(() => app.sseSessions.closing, 'the start of close()')
  await nextEventLoopTick()
  gate.resolve()
  const run = await started
  feed.end()
  await withTimeout(closed, 'close()')
  t.match(run, { status: 'finished', reason: undefined })
})

t.test('a delivery whose start is in progress when the server closes has closeTimeout to end', async t => {
  const [starting, gate, values] = [deferred(), deferred(), deferred()]
  const store = new FlakyStore()
  const { app, sessions, url } = await serve(t, { closeTimeout: 9500, store: store.createStore })
  let isComplete = false
  sessions.handle('stream', async function * (_session, _data, { signal }) {
    await Promise.race([values.promise, once(signal, 'abort')])
    yield 1
    isComplete = !signal.aborted
  })
  const { sessionId } = await openStream(t, url)
  store.delay = async name => {
    if (name !== 'start') return
    starting.resolve()
    await gate.promise
  }
  const response = postMessage(url, sessionId, undefined, { event: 'stream', key: 'a' })
  await withTimeout(starting.promise, 'the call of the store')
  const closed = app.close()
  await waitUntil(() => sessions.closing, 'the start of close()')
  await nextEventLoopTick()
  gate.resolve()
  t.equal((await response).status, 202)
  values.resolve()
  await withTimeout(closed, 'close()')
  t.equal(isComplete, true)
})

t.test('close() does not wait until pluginTimeout for a store and an onClose hook that do not respond', async t => {
  const store = new FlakyStore()
  const { app, url, runUrl } = await serveRuns(t, { plugin: { closeTimeout: 500, store: store.createStore }, serve: { fastify: { pluginTimeout: 1000 } } })
  app.sseSessions.addHook('onClose', () => new Promise(() => {}))
  await openStream(t, url)
  const response = await follow(t, runUrl, { method: 'POST' })
  store.delay = name => name === 'end' ? new Promise(() => {}) : undefined
  await withTimeout(app.close(), 'close()')
  t.equal(await response.isComplete, false)
})
