import t from 'tap'
import { eachClient, FORCE_CLOSE, next } from '../support/clients.js'
import { faultProxy } from '../support/proxy.js'
import { serve } from '../support/server.js'
import { signal, within } from '../support/wait.js'
import { openStream, respond, scriptedServer, welcome } from './support/scripted-server.js'

eachClient(t, 'calls the headers function before each request, and retries after it throws', async (t, connect) => {
  const tokens: unknown[] = []
  const { port } = await serve(t, { retry: 1 }, {
    fastify: FORCE_CLOSE,
    before: app => { app.addHook('onRequest', async ({ method, headers }) => { tokens.push([method, headers.authorization]) }) }
  })
  const proxy = await faultProxy(t, port)
  let calls = 0
  const session = connect(proxy.url, {
    headers: async () => {
      if (++calls === 1) throw new Error('no token yet')
      return { authorization: `${calls}` }
    }
  })
  t.match(await next(session, 'error'), { message: 'no token yet' })
  await next(session, 'open')
  await session.send({ text: 'x' })
  const resumed = next(session, 'resume')
  proxy.connections[0]?.client.destroy()
  await within(resumed, 'the new stream')
  t.strictSame(tokens, [['GET', '2'], ['POST', '3'], ['GET', '4']])
})

eachClient(t, 'sends requests with the paths, headers, credentials and fetch of the options', async (t, connect) => {
  const requests: Array<[url: string, init: RequestInit]> = []
  const server = await scriptedServer(t, [openStream(welcome())], [respond(200, {}, [{ status: 202, body: { status: 'accepted' } }])])
  const session = connect(`${server.url}/chat/`, {
    paths: { downward: '/listen', upward: '/say' },
    credentials: 'include',
    headers: { 'x-custom': 'yes', 'x-session-id': 'overwritten' },
    fetch: (url, init) => {
      requests.push([url, init])
      return fetch(url, init)
    }
  })
  t.equal(await session.emit('a', 1), undefined)
  await session.close()
  const common = { credentials: 'include', headers: { 'x-custom': 'yes' } }
  t.match(requests, [
    [`${server.url}/chat/listen`, { ...common, cache: 'no-store', headers: { ...common.headers, accept: 'text/event-stream' } }],
    [`${server.url}/chat/say`, { ...common, method: 'POST', headers: { ...common.headers, 'content-type': 'application/x-ndjson' } }],
    [`${server.url}/chat/listen`, { ...common, method: 'DELETE' }]
  ])
  t.match(server.requests, [{ method: 'GET' }, { method: 'POST', body: '{"event":"a","data":1,"id":"0"}' }, { method: 'DELETE' }])
  t.strictSame(server.requests.map(({ headers }) => headers['x-session-id']), ['overwritten', 's', 's'])
})

eachClient(t, 'does not set credentials by default', async (t, connect) => {
  const requested = signal<RequestInit>()
  connect('', {
    fetch: async (_url, init) => {
      requested.resolve(init)
      return new Response(null, { status: 204 })
    }
  })
  t.notOk('credentials' in await within(requested.promise, 'the request'))
})
