import t from 'tap'
import { Agent, type Dispatcher } from 'undici'
import { connect } from '../../lib/client/node.js'
import { waitForEvent, recordEvents } from '../support/clients.js'
import { http2Options } from '../support/http2.js'
import { openStream, scriptedServer, welcome } from './support/scripted-server.js'
import { serve } from '../support/server.js'
import { withTimeout } from '../support/wait.js'

// This test is the first of the process, because undici keeps the first timer that it creates.
t.test('a stream may be idle for longer than the default bodyTimeout of undici', async t => {
  const server = await scriptedServer(t, [openStream(welcome()), openStream(welcome())])
  const originalSetTimeout = globalThis.setTimeout
  let isFast = false
  // Undici measures time with the ticks of one timer that it refreshes. Here they follow in each tick of the event loop.
  t.intercept(globalThis, 'setTimeout', {
    value: (run: () => void, ms: number, ...args: []) => {
      const timer = originalSetTimeout(run, ms, ...args)
      const refresh = timer.refresh.bind(timer)
      timer.refresh = () => {
        if (!isFast) return refresh()
        setImmediate(run)
        return timer
      }
      return timer
    }
  })
  const withDefault = connect(server.url)
  const events = recordEvents(withDefault)
  await waitForEvent(withDefault, 'open')
  const withCustom = connect(server.url, { dispatcher: new Agent() })
  t.teardown(() => Promise.all([withDefault.close(), withCustom.close()]))
  await waitForEvent(withCustom, 'open')
  const disconnected = waitForEvent(withCustom, 'disconnect')
  isFast = true
  t.match(await disconnected, { error: { cause: { code: 'UND_ERR_BODY_TIMEOUT' } } })
  t.strictSame(events.map(([name]) => name), ['open'])
})

const DISPATCHERS: Array<[title: string, createDispatcher: () => Dispatcher | undefined]> = [
  ['with the default dispatcher', () => undefined],
  ['with a custom dispatcher', () => new Agent({ allowH2: true, bodyTimeout: 0 })]
]
for (const [title, createDispatcher] of DISPATCHERS) {
  t.test(`uses HTTP/2 if the server offers it, ${title}`, async t => {
    // The certificate of the test is self-signed.
    process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'
    t.teardown(() => { delete process.env.NODE_TLS_REJECT_UNAUTHORIZED })
    const { sessions, url } = await serve(t, {}, { fastify: http2Options })
    const dispatcher = createDispatcher()
    const versions = new Set<number>()
    sessions.handle('version', (_session, _data, { request }) => {
      versions.add(request.raw.httpVersionMajor)
      return 'ok'
    })
    const session = connect(url.replace('http:', 'https:'), { ...dispatcher && { dispatcher } })
    t.equal(await withTimeout(session.request('version', {}), 'the response'), 'ok')
    t.strictSame([...versions], [2])
    await session.close()
    await dispatcher?.destroy()
  })
}

t.test('sends every request through a custom dispatcher', async t => {
  const paths: string[] = []
  const dispatcher = new Agent().compose(dispatch => (options, handler) => {
    paths.push(`${options.method} ${options.path}`)
    return dispatch(options, handler)
  })
  const { url } = await serve(t)
  const session = connect(url, { dispatcher })
  await session.send({ text: 'x' })
  await session.close()
  t.strictSame(paths, ['GET /downward', 'POST /upward', 'DELETE /downward'])
  await dispatcher.destroy()
})
