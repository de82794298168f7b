import t from 'tap'
import { eachClient, next } from '../support/clients.js'
import { signal, within } from '../support/wait.js'
import { echo, endedStream, isPost, openStream, respond, scriptedServer, startStream, welcome, writeChunks } from './support/scripted-server.js'
import { fakeNetwork, streamResponse } from './support/fake-network.js'

eachClient(t, 'a retry field with digits sets the minimum delay, and any other is ignored', async (t, connect) => {
  const server = await scriptedServer(t, [endedStream(welcome(), 'retry: 200\n\n', 'retry: 1x\n\nretry: -1\n\nretry:\n\n')])
  await next(connect(server.url), 'close')
  const [first, second] = server.requests.map(({ receivedAt }) => receivedAt) as [number, number]
  t.ok(second - first >= 195, `${second - first} ms`)
})

eachClient(t, 'waits for Retry-After, in seconds and as a date, before it reconnects', async (t, connect) => {
  const server = await scriptedServer(t, [
    endedStream(welcome()),
    respond(503, { 'retry-after': '1' }),
    response => { response.writeHead(429, { 'retry-after': new Date(Date.now() + 2000).toUTCString() }).end() }
  ])
  await next(connect(server.url), 'close')
  const [, second, third, fourth] = server.requests.map(({ receivedAt }) => receivedAt) as [number, number, number, number]
  t.ok(third - second >= 995, `${third - second} ms`)
  t.ok(fourth - third >= 900, `${fourth - third} ms`)
})

eachClient(t, 'the delays between attempts to connect grow, and are short again after a stream', async (t, connect) => {
  t.intercept(Math, 'random', { value: () => 0.5 })
  const { fetch, requestCount, advance } = fakeNetwork(t, (_method, attempt) => new Response(attempt === 4 ? welcome() : '', { headers: { 'content-type': 'text/event-stream' } }))
  connect('', { fetch })
  await advance(0)
  for (const ms of [1500, 2000, 3000, 1500]) {
    const before = requestCount('GET')
    await advance(ms - 1)
    t.equal(requestCount('GET'), before)
    await advance(1)
    t.equal(requestCount('GET'), before + 1)
  }
})

eachClient(t, 'the delays between POSTs grow, and are short again after a success', async (t, connect) => {
  t.intercept(Math, 'random', { value: () => 0.5 })
  const { fetch, requestCount, advance } = fakeNetwork(t, (method, attempt) => {
    if (method !== 'POST') return streamResponse(welcome())
    return attempt === 4 || attempt === 6 ? Response.json([{ status: 200, body: 'yes' }]) : new Response('busy', { status: 503 })
  })
  const session = connect('', { fetch })
  for (const delays of [[1500, 2000, 3000], [1500]]) {
    const result = session.request('a', 1)
    await advance(0)
    for (const ms of delays) {
      const before = requestCount('POST')
      await advance(ms - 1)
      t.equal(requestCount('POST'), before)
      await advance(1)
      t.equal(requestCount('POST'), before + 1)
    }
    t.equal(await within(result, 'the response'), 'yes')
  }
})

eachClient(t, 'Retry-After applies to one delay only', async (t, connect) => {
  const { fetch, requestCount, advance } = fakeNetwork(t, (_method, attempt) => attempt === 1
    ? new Response('busy', { status: 503, headers: { 'retry-after': '100' } })
    : new Response('', { headers: { 'content-type': 'text/event-stream' } }))
  const session = connect('', { fetch })
  await next(session, 'error')
  await advance(99_999)
  t.equal(requestCount('GET'), 1)
  await advance(1)
  t.equal(requestCount('GET'), 2)
  await advance(31_000)
  t.equal(requestCount('GET'), 3)
})

eachClient(t, 'a message waits for Retry-After before it is repeated', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome())], [respond(429, { 'retry-after': '1' }), echo])
  await connect(server.url).request('a', 1)
  const [first, second] = server.requests.filter(isPost).map(({ receivedAt }) => receivedAt) as [number, number]
  t.ok(second - first >= 995, `${second - first} ms`)
})

eachClient(t, 'a new stream ends the delay before a POST is repeated, unless Retry-After requires it', async (t, connect) => {
  for (const [retry, headers, minimum] of [[1, { 'retry-after': '1' }, 995], [100_000, {}, 0]] satisfies Array<[number, Record<string, string>, number]>) {
    const rejected = signal()
    const server = await scriptedServer(t, [
      async response => {
        await startStream(response, `retry: ${retry}\n\n`, welcome())
        await rejected.promise
        await writeChunks(response, 'retry: 1\n\n')
        response.end()
      },
      openStream(welcome(true))
    ], [
      async (response, body) => {
        await respond(503, headers)(response, body)
        rejected.resolve()
      },
      echo
    ])
    const session = connect(server.url)
    await within(session.request('a', 1), 'the response')
    const [first, second] = server.requests.filter(isPost).map(({ receivedAt }) => receivedAt) as [number, number]
    t.ok(second - first >= minimum, `${second - first} ms`)
    await session.close()
  }
})
