import t from 'tap'
import { testEachClient, FORCE_CLOSE, waitForEvent } from '../support/clients.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { deferred, withTimeout } from '../support/wait.js'
import { openStream, respond, scriptedServer, welcome } from './support/scripted-server.js'

testEachClient(t, 'calls the headers function before each request, and retries after it throws', async (t, connect) => {
  const tokens: unknown[] = []
  const { port } = await serve(t, { retry: 1 }, {
    fastify: FORCE_CLOSE,
    beforeRegister: app => {
      app.addHook('onRequest', async ({ method, url, headers }) => {
        // The hook also runs for each message of a batch, with the headers of the batch.
        if (!url.endsWith('/batch/message')) tokens.push([method, headers.authorization])
      })
    }
  })
  const proxy = await startFaultProxy(t, port)
  let calls = 0
  const session = connect(proxy.url, {
    headers: async () => {
      if (++calls === 1) throw new Error('no token yet')
      return { authorization: `${calls}` }
    }
  })
  t.match(await waitForEvent(session, 'error'), { message: 'no token yet' })
  await waitForEvent(session, 'open')
  await session.send({ text: 'x' })
  const resumed = waitForEvent(session, 'resume')
  proxy.connections[0]?.client.destroy()
  await withTimeout(resumed, 'the new stream')
  t.strictSame(tokens, [['GET', '2'], ['POST', '3'], ['GET', '4']])
})

testEachClient(t, 'sends requests with the paths, headers, credentials and fetch of the options', async (t, connect) => {
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
  matchList(t, requests, [
    [`${server.url}/chat/listen`, { ...common, cache: 'no-store', headers: { ...common.headers, accept: 'text/event-stream' } }],
    [`${server.url}/chat/say`, { ...common, method: 'POST', headers: { ...common.headers, 'content-type': 'application/x-ndjson' } }],
    [`${server.url}/chat/listen`, { ...common, method: 'DELETE' }]
  ])
  matchList(t, server.requests, [{ method: 'GET' }, { method: 'POST', body: '{"event":"a","data":1,"id":"0"}' }, { method: 'DELETE' }])
  t.strictSame(server.requests.map(({ headers }) => headers['x-session-id']), ['overwritten', 's', 's'])
})

testEachClient(t, 'does not set credentials by default', async (t, connect) => {
  const requested = deferred<RequestInit>()
  connect('', {
    fetch: async (_url, init) => {
      requested.resolve(init)
      return new Response(null, { status: 204 })
    }
  })
  t.notOk('credentials' in await withTimeout(requested.promise, 'the request'))
})

for (const [title, headers] of [
  ['a Headers object', new Headers({ Authorization: 'Bearer x' })],
  ['a list of pairs', [['AUTHORIZATION', 'Bearer x'], ['x-none', undefined]] as unknown as HeadersInit],
  ['an object with undefined', { Authorization: 'Bearer x', 'x-none': undefined }],
  ['an object with its own content type', { authorization: 'Bearer x', 'Content-Type': 'text/plain' }],
  ['a function', () => new Headers({ authorization: 'Bearer x' })]
] as const) {
  testEachClient(t, `sends the headers of ${title}, with the content type of the client`, async (t, connect) => {
    const server = await scriptedServer(t, [openStream(welcome())], [respond(200, {}, [{ status: 200, body: 1 }])])
    const session = connect(server.url, { headers })
    await withTimeout(session.request('a', 1), 'the response')
    await session.close()
    t.strictSame(server.requests.map(({ headers }) => headers.authorization), Array(3).fill('Bearer x'))
    t.strictSame(server.requests.map(({ headers }) => headers['content-type']), [undefined, 'application/x-ndjson', undefined])
    t.notOk(server.requests.some(({ headers }) => 'x-none' in headers))
  })
}

testEachClient(t, 'keeps the query of the URL, and drops its fragment', async (t, connect) => {
  for (const suffix of ['/chat?token=a/b', '/chat/?token=a/b#part']) {
    const server = await scriptedServer(t, [openStream(welcome())])
    const session = connect(server.url + suffix)
    await waitForEvent(session, 'open')
    t.equal(server.requests[0]?.url, '/chat/downward?token=a/b')
  }
})

testEachClient(t, 'options with the value undefined have their defaults, and an unknown option is an error', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome())])
  const session = connect(server.url, { fetch: undefined, headers: undefined, paths: undefined, timeout: undefined })
  await waitForEvent(session, 'open')
  t.equal(server.requests[0]?.url, '/downward')
  t.throws(() => connect(server.url, { header: {} } as object), { code: 'OPTION_INVALID', message: 'No option header' })
})
