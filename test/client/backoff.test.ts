import t from 'tap'
import { recordEvents, testEachClient, waitForEvent } from '../support/clients.js'
import { matchList } from '../support/match-list.js'
import { deferred, withTimeout } from '../support/wait.js'
import { echo, endedStream, isPost, openStream, respond, scriptedServer, startStream, welcome, writeChunks } from './support/scripted-server.js'
import { fakeNetwork, streamResponse } from './support/fake-network.js'

testEachClient(t, 'a retry field with digits sets the minimum delay, and any other is ignored', async (t, connect) => {
  const server = await scriptedServer(t, [endedStream(welcome(), 'retry: 200\n\n', 'retry: 1x\n\nretry: -1\n\nretry:\n\n')])
  await waitForEvent(connect(server.url), 'close')
  const [first, second] = server.requests.map(({ receivedAt }) => receivedAt) as [number, number]
  t.ok(second - first >= 195, `${second - first} ms`)
})

testEachClient(t, 'waits for Retry-After, in seconds and as a date, before it reconnects', async (t, connect) => {
  const server = await scriptedServer(t, [
    endedStream(welcome()),
    respond(503, { 'retry-after': '1' }),
    response => { response.writeHead(429, { 'retry-after': new Date(Date.now() + 2000).toUTCString() }).end() }
  ])
  await waitForEvent(connect(server.url), 'close')
  const [, second, third, fourth] = server.requests.map(({ receivedAt }) => receivedAt) as [number, number, number, number]
  t.ok(third - second >= 995, `${third - second} ms`)
  t.ok(fourth - third >= 900, `${fourth - third} ms`)
})

testEachClient(t, 'the delays between attempts to connect grow, and are short again after a stream', async (t, connect) => {
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

testEachClient(t, 'the delays between POSTs grow, and are short again after a success', async (t, connect) => {
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
    t.equal(await withTimeout(result, 'the response'), 'yes')
  }
})

testEachClient(t, 'Retry-After applies to one delay only', async (t, connect) => {
  const { fetch, requestCount, advance } = fakeNetwork(t, (_method, attempt) => attempt === 1
    ? new Response('busy', { status: 503, headers: { 'retry-after': '100' } })
    : new Response('', { headers: { 'content-type': 'text/event-stream' } }))
  const session = connect('', { fetch })
  await waitForEvent(session, 'error')
  await advance(99_999)
  t.equal(requestCount('GET'), 1)
  await advance(1)
  t.equal(requestCount('GET'), 2)
  await advance(11_000)
  t.equal(requestCount('GET'), 3)
})

testEachClient(t, 'a message waits for Retry-After before it is repeated', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome())], [respond(429, { 'retry-after': '1' }), echo])
  await connect(server.url).request('a', 1)
  const [first, second] = server.requests.filter(isPost).map(({ receivedAt }) => receivedAt) as [number, number]
  t.ok(second - first >= 995, `${second - first} ms`)
})

testEachClient(t, 'a new stream ends the delay before a POST is repeated, unless Retry-After requires it', async (t, connect) => {
  for (const [retry, headers, minimum] of [[1, { 'retry-after': '1' }, 995], [100_000, {}, 0]] satisfies Array<[number, Record<string, string>, number]>) {
    const rejected = deferred()
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
    await withTimeout(session.request('a', 1), 'the response')
    const [first, second] = server.requests.filter(isPost).map(({ receivedAt }) => receivedAt) as [number, number]
    t.ok(second - first >= minimum, `${second - first} ms`)
    await session.close()
  }
})

testEachClient(t, 'Retry-After is at most five minutes, and a date in it is compared with the Date header', async (t, connect) => {
  for (const [headers, expected] of [
    [{ 'retry-after': '99999999999' }, 300_000],
    [{ 'retry-after': new Date(3_600_010_000).toUTCString(), date: new Date(3_600_000_000).toUTCString() }, 10_000]
  ] as Array<[Record<string, string>, number]>) {
    await t.test(`${expected}`, async t => {
      const { fetch, requestCount, advance } = fakeNetwork(t, (_method, attempt) => attempt === 1 ? new Response('', { status: 503, headers }) : streamResponse(welcome()))
      const session = connect('', { fetch })
      const events = recordEvents(session)
      await advance(0)
      await advance(expected - 1)
      t.equal(requestCount('GET'), 1)
      await advance(1)
      t.equal(requestCount('GET'), 2)
      matchList(t, events, [['error', {}], ['open', {}]])
    })
  }
})
