import t from 'tap'
import { Agent, type Dispatcher } from 'undici'
import { connect } from '../../lib/client/node.js'
import { next, record } from '../support/clients.js'
import { http2Server } from '../support/http2.js'
import { open, scriptedServer, welcome } from './support/scripted-server.js'
import { serve } from '../support/server.js'
import { within } from '../support/wait.js'

// The first test, as undici keeps the timer that it makes first.
t.test('a stream may be silent for longer than undici would have it', async t => {
  const server = await scriptedServer(t, [open(welcome()), open(welcome())])
  const real = globalThis.setTimeout
  let hurried = false
  // Undici counts the ticks of one timer, which it refreshes: hurried, they come with each turn of the event loop.
  t.intercept(globalThis, 'setTimeout', {
    value: (run: () => void, ms: number, ...args: []) => {
      const timer = real(run, ms, ...args)
      const refresh = timer.refresh.bind(timer)
      timer.refresh = () => {
        if (!hurried) return refresh()
        setImmediate(run)
        return timer
      }
      return timer
    }
  })
  const ours = connect(server.url)
  const events = record(ours)
  await next(ours, 'open')
  const theirs = connect(server.url, { dispatcher: new Agent() })
  t.teardown(() => Promise.all([ours.close(), theirs.close()]))
  await next(theirs, 'open')
  const lost = next(theirs, 'disconnect')
  hurried = true
  t.match(await lost, { error: { cause: { code: 'UND_ERR_BODY_TIMEOUT' } } })
  t.strictSame(events.map(([name]) => name), ['open'])
})

const DISPATCHERS: Array<[title: string, dispatcher: () => Dispatcher | undefined]> = [
  ['of its own accord', () => undefined],
  ['through a dispatcher of one\'s own', () => new Agent({ allowH2: true, bodyTimeout: 0 })]
]
for (const [title, make] of DISPATCHERS) {
  t.test(`HTTP/2 is spoken where it is offered, ${title}`, async t => {
    // The test's certificate is nobody's.
    process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'
    t.teardown(() => { delete process.env.NODE_TLS_REJECT_UNAUTHORIZED })
    const { sessions, url } = await serve(t, {}, { fastify: http2Server })
    const dispatcher = make()
    const versions = new Set<number>()
    sessions.handle('version', (_session, _data, { request }) => {
      versions.add(request.raw.httpVersionMajor)
      return 'ok'
    })
    const session = connect(url.replace('http:', 'https:'), { ...dispatcher && { dispatcher } })
    t.equal(await within(session.request('version', {}), 'the answer'), 'ok')
    t.strictSame([...versions], [2])
    await session.close()
    await dispatcher?.destroy()
  })
}

t.test('a dispatcher of one\'s own carries every request', async t => {
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
