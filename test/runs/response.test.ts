import { once } from 'node:events'
import { constants } from 'node:http2'
import { PassThrough, Readable, Transform } from 'node:stream'
import t from 'tap'
import { StoreUnavailable, type Gap } from '../../lib/index.js'
import { connectHttp2, http2Options, requestHttp2 } from '../support/http2.js'
import { matchList } from '../support/match-list.js'
import { openRawClient } from '../support/raw-client.js'
import { FlakyStore } from '../support/flaky-store.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'
import { createFeed } from './support/feed.js'
import { dataOf, follow } from './support/run-client.js'
import { serveRuns } from './support/serve-runs.js'

t.test('the response is chunked and contains retry, an id, the events with their ids, and the end', async t => {
  const { port, feed } = await serveRuns(t, { plugin: { retry: 1500 } })
  const client = openRawClient(t, port, { request: 'POST /run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n' })
  feed.add('one', { event: 'step', data: { n: 2 } }, { event: 'message', data: 3 }, { event: 'step' }, { event: 'step', data: 5, more: true })
  feed.end()
  await client.waitFor('event: end')
  await client.waitFor('\n\n')
  await waitUntil(() => client.rawText().endsWith('\r\n0\r\n\r\n'), 'the last chunk')
  const [head = '', ...body] = client.text().split('\r\n\r\n')
  t.match(head, /^HTTP\/1\.1 200 OK\r\n/)
  t.match(head.toLowerCase(), 'transfer-encoding: chunked')
  t.match(head.toLowerCase(), 'content-type: text/event-stream; charset=utf-8')
  t.match(head.toLowerCase(), 'cache-control: no-store, no-transform')
  const text = body.join('\r\n\r\n')
  const id = /id: (.*)\.\w+\n/.exec(text)?.[1] ?? ''
  t.match(id, /^[\w-]{24}$/)
  t.equal(text.replaceAll(id, 'RUN'), [
    'retry: 1500', 'id: RUN.0', 'id: RUN.1\ndata: "one"', 'id: RUN.2\nevent: step\ndata: {"n":2}', 'id: RUN.3\ndata: 3', 'id: RUN.4\nevent: step\ndata: null',
    'id: RUN.5\ndata: {"event":"step","data":5,"more":true}', 'id: RUN.6\nevent: end\ndata: {"status":"finished"}', ''
  ].join('\n\n'))
})

t.test('"encode" formats the data, and "finalFrame" the end', async t => {
  const { feed, runUrl } = await serveRuns(t, {
    start: { encode: data => typeof data === 'string' ? data : JSON.stringify(data) },
    reply: { finalFrame: ({ status }) => `event: status\ndata: ${status}\n\ndata: [DONE]\n\n` }
  })
  const response = await follow(t, runUrl, { method: 'POST' })
  feed.add('<p>\nline 2\r\nline 3', { event: 'raw', data: 'x' }, { n: 1 })
  feed.end()
  await response.isComplete
  t.strictSame(response.events.map(({ event, data }) => [event, data]), [['message', '<p>\nline 2\nline 3'], ['raw', 'x'], ['message', '{"n":1}'], ['status', 'finished'], ['message', '[DONE]']])
  const [last, beforeLast] = [response.events.at(-1), response.events.at(-2)]
  t.equal(beforeLast?.id, undefined, 'a client that has lost [DONE] receives it again')
  t.equal(last?.id, response.lastEventId())
})

t.test('an empty final frame ends the response with a block that has only an id', async t => {
  const { feed, runUrl } = await serveRuns(t, { reply: { finalFrame: () => '' } })
  const response = await follow(t, runUrl, { method: 'POST' })
  feed.add(1)
  feed.end()
  t.equal(await response.isComplete, true)
  t.strictSame(response.events.map(({ data }) => data), ['1'])
  t.match(response.text(), /\n\nid: \S+\n\n$/)
  t.equal((await follow(t, runUrl, { headers: { 'last-event-id': response.lastEventId() } })).status, 204)
})

t.test('a client that has received the end gets 204, and one that lacks only the end gets the end', async t => {
  const { feed, runUrl } = await serveRuns(t)
  const response = await follow(t, runUrl, { method: 'POST' })
  feed.add(1, 2)
  feed.end()
  await response.isComplete
  const [, second, end] = response.events
  t.equal((await fetch(runUrl, { headers: { 'last-event-id': end?.id ?? '' } })).status, 204)
  const resumed = await follow(t, runUrl, { headers: { 'last-event-id': second?.id ?? '' } })
  await resumed.isComplete
  t.strictSame(resumed.events, [end])
  // An empty header is no header.
  t.strictSame(dataOf(await followed(follow(t, runUrl, { headers: { 'last-event-id': '' } }))), ['1', '2'])
})

async function followed (response: ReturnType<typeof follow>): ReturnType<typeof follow> {
  await (await response).isComplete
  return await response
}

t.test('the id of an event of another run, and anything that is not an id, get 404', async t => {
  const { feed, runs, runUrl } = await serveRuns(t)
  const first = await follow(t, runUrl, { method: 'POST' })
  feed.add(1)
  feed.end()
  await first.isComplete
  await runs.start('a', {}, () => [2])
  for (const id of [first.lastEventId(), first.events[0]?.id ?? '', 'closed', 'nonsense', `${(await runs.find('a'))?.id ?? ''}.0`]) {
    const response = await fetch(runUrl, { headers: { 'last-event-id': id } })
    t.equal(response.status, 404)
    t.match(await response.json(), { code: 'FST_SSE_RUN_UNKNOWN' })
    t.equal((await fetch(`${runUrl}?from=${id}`)).status, 404)
  }
})

t.test('a reader whose cursor is behind the log gets a gap with the range, and then what the log has', async t => {
  const { runUrl, runs } = await serveRuns(t, { plugin: { runLog: { entries: 3 } } })
  const run = await runs.start('a', {}, () => [1, 2, 3, 4, 5])
  const response = await followed(follow(t, runUrl))
  const [gap, ...rest] = response.events
  t.strictSame([gap?.event, JSON.parse(gap?.data ?? '')], ['gap', { after: 0, resumedAt: 2, reason: 'count' }])
  t.equal(gap?.id, `${run.id}.2`)
  t.strictSame(rest.map(({ data }) => data), ['3', '4', '5', '{"status":"finished"}'])
  t.strictSame(dataOf(await followed(follow(t, runUrl, { headers: { 'last-event-id': `${run.id}.2` } }))), ['3', '4', '5'])
})

t.test('"gapFrame" replaces the gap event, for example by nothing', async t => {
  let frame = 'event: restart\ndata: {}\n\n'
  const gaps: Gap[] = []
  const { runUrl, runs } = await serveRuns(t, {
    plugin: { runLog: { entries: 1 } },
    reply: {
      gapFrame: gap => {
        gaps.push(gap)
        return frame
      }
    }
  })
  const run = await runs.start('a', {}, () => [1, 2])
  t.strictSame((await followed(follow(t, runUrl))).events.map(({ event, id }) => [event, id]), [['restart', `${run.id}.1`], ['message', `${run.id}.2`], ['end', `${run.id}.3`]])
  t.strictSame(gaps, [{ after: 0, resumedAt: 1, reason: 'count' }])
  frame = ''
  t.strictSame((await followed(follow(t, runUrl))).events.map(({ data }) => data), ['2', '{"status":"finished"}'])
})

t.test('a cursor that the run has not reached gets a gap, because the store has lost what followed', async t => {
  const { runUrl, runs, feed } = await serveRuns(t)
  const run = await runs.start('a', {}, feed.producer)
  feed.add(1)
  const response = await follow(t, runUrl, { headers: { 'last-event-id': `${run.id}.zz` } })
  await response.waitFor('{"after":1295,"resumedAt":1,"reason":"store"}')
  feed.add(2)
  await response.waitFor('2')
  t.equal(response.events[0]?.id, `${run.id}.1`)
})

for (const [name, options] of [
  ['finalFrame', { finalFrame: () => { throw new Error('broken') } }],
  ['finalFrame', { finalFrame: () => 'data: [DONE]' }],
  ['finalFrame', { finalFrame: () => undefined as never }],
  ['gapFrame', { gapFrame: () => 'data: gap' }]
] as const) {
  t.test(`a response is aborted if ${name} returns ${String(Object.values(options)[0])}`, async t => {
    const { runUrl, runs, logged } = await serveRuns(t, { plugin: { runLog: { entries: 1 } }, reply: options })
    await runs.start('a', {}, () => [1, 2])
    t.equal(await follow(t, runUrl).then(({ isComplete }) => isComplete, () => false), false)
    t.match(logged().find(({ level }) => level > 30), { msg: `the option "${name}" of a run failed` })
    t.equal((await runs.find('a'))?.status, 'finished')
  })
}

t.test('readers receive everything before the response is aborted because finalFrame has failed', async t => {
  const { runUrl, port, feed } = await serveRuns(t, { reply: { finalFrame: () => { throw new Error('broken') } } })
  const reader = await follow(t, runUrl, { method: 'POST' })
  const slow = openRawClient(t, port, { request: 'GET /run HTTP/1.1\r\nHost: localhost\r\n\r\n', stalled: true })
  const items = Array.from({ length: 100 }, (_, index) => `${index} ${'x'.repeat(10_000)}`)
  feed.add(1)
  await reader.waitFor('1')
  feed.add(...items)
  feed.end()
  t.equal(await reader.isComplete, false)
  t.equal(reader.events.length, 101)
  const later = await follow(t, runUrl)
  t.equal(await later.isComplete, false)
  t.equal(later.events.length, 101)
  slow.read()
  await withTimeout(slow.closed, 'the end of the response')
  t.equal(slow.text().match(/^data: "\d+ x+"$/gm)?.length, 100)
  t.notOk(slow.rawText().endsWith('0\r\n\r\n'))
})

t.test('what a hook of the app transforms is sent before a response is aborted because finalFrame has failed', async t => {
  const gate = deferred()
  const { runUrl, feed, logged } = await serveRuns(t, {
    reply: { finalFrame: () => { throw new Error('broken') } },
    serve: {
      beforeRegister: app => app.addHook('onSend', async (_request, _reply, payload) => {
        if (!(payload instanceof Readable)) return payload
        return payload.pipe(new Transform({ transform: (chunk, _encoding, done) => { gate.promise.then(() => { done(null, chunk) }, done) } }))
      })
    }
  })
  const reader = follow(t, runUrl, { method: 'POST' })
  feed.add(1, 2)
  feed.end()
  await waitUntil(() => logged().some(({ msg }) => msg === 'the option "finalFrame" of a run failed'), 'the failure')
  await nextEventLoopTick()
  gate.resolve()
  for (const { events, isComplete } of [await reader, await follow(t, runUrl)]) {
    t.equal(await isComplete, false)
    t.strictSame(events.map(({ data }) => data), ['1', '2'])
  }
})

t.test('an unknown option of reply() gets an error that names it', async t => {
  const { runUrl, runs } = await serveRuns(t, { reply: { finalframe: () => '' } as object })
  await runs.start('a', {}, () => [1])
  const response = await fetch(runUrl)
  t.equal(response.status, 500)
  t.match(await response.json(), { code: 'FST_SSE_RUN_INVALID', message: /"finalframe"/ })
})

t.test('options of reply() that are not functions get an error that names them', async t => {
  for (const name of ['finalFrame', 'gapFrame']) {
    const { runUrl, runs } = await serveRuns(t, { reply: { [name]: 'data: [DONE]\n\n' } })
    await runs.start('a', {}, () => [1])
    const response = await fetch(runUrl)
    t.equal(response.status, 500)
    t.match(await response.json(), { code: 'FST_SSE_RUN_INVALID', message: new RegExp(`"${name}".* must be a function`) })
  }
})

t.test('an "encode" that returns no string fails the run', async t => {
  const { runUrl, runs, logged } = await serveRuns(t)
  await runs.start('a', { encode: () => 7 as never }, () => [1])
  matchList(t, (await followed(follow(t, runUrl))).events, [{ data: '{"status":"failed"}' }])
  await runs.start('a', { encode: String }, () => [{ event: 'close', data: 1 }])
  matchList(t, (await followed(follow(t, runUrl))).events, [{ data: '{"status":"failed"}' }])
  t.strictSame(logged().filter(({ level }) => level > 30).map(({ err }) => err?.code), ['FST_SSE_DATA_INVALID', 'FST_SSE_EVENT_INVALID'])
})

t.test('an idle response gets heartbeats', async t => {
  const { runUrl, feed } = await serveRuns(t, { plugin: { heartbeatInterval: 5, heartbeatEvent: 'ping' } })
  const response = await follow(t, runUrl, { method: 'POST' })
  await waitUntil(() => response.text().includes(': heartbeat\n\n'), 'a heartbeat')
  feed.add(1)
  feed.end()
  await response.isComplete
  t.strictSame(dataOf(response), ['1'])
})

t.test('the app has all of Fastify: headers, hooks and onResponse', async t => {
  const responses: number[] = []
  const { runUrl, feed } = await serveRuns(t, {
    serve: {
      beforeRegister: app => {
        app.addHook('onRequest', async (_request, reply) => { reply.header('x-from-hook', 'yes') })
        app.addHook('onSend', async (_request, reply, payload) => {
          reply.header('x-payload', payload instanceof Readable ? 'stream' : 'text')
          return payload
        })
        app.addHook('onResponse', async (_request, { statusCode }) => { responses.push(statusCode) })
      }
    }
  })
  const complete = await follow(t, runUrl, { method: 'POST' })
  const aborted = await follow(t, runUrl)
  t.strictSame([complete.headers.get('x-from-hook'), complete.headers.get('x-payload')], ['yes', 'stream'])
  feed.add(1)
  await aborted.waitFor('1')
  aborted.abort()
  await waitUntil(() => responses.length === 1, 'the onResponse hook after a disconnect')
  feed.end()
  await complete.isComplete
  await waitUntil(() => responses.length === 2, 'the onResponse hook after the end')
  t.strictSame(responses, [200, 200])
})

t.test('an onSend hook can transform the response', async t => {
  const { runUrl, feed } = await serveRuns(t, {
    serve: {
      beforeRegister: app => {
        app.addHook('onSend', async (_request, _reply, payload) => payload instanceof Readable ? payload.pipe(new PassThrough()) : payload)
      }
    }
  })
  const response = await follow(t, runUrl, { method: 'POST' })
  feed.add('one')
  await response.waitFor('"one"')
  feed.end()
  t.equal(await response.isComplete, true)
  t.strictSame(response.events.map(({ data }) => data), ['"one"', '{"status":"finished"}'])
})

t.test('an onSend hook can replace the response, and one that fails gets an error response', async t => {
  let action: () => unknown = () => 'replaced'
  const { runUrl, runs, feed } = await serveRuns(t, {
    serve: {
      beforeRegister: app => {
        app.addHook('onSend', async (_request, _reply, payload) => payload instanceof Readable ? action() : payload)
      }
    }
  })
  await runs.start('a', {}, feed.producer)
  t.equal(await (await fetch(runUrl)).text(), 'replaced')
  action = () => { throw new Error('hook') }
  t.equal((await fetch(runUrl)).status, 500)
  t.equal((await runs.find('a'))?.status, 'running')
})

t.test('the handler timeout of the route does not end a response', async t => {
  const { runUrl, feed } = await serveRuns(t, { serve: { fastify: { handlerTimeout: 50 } } })
  const response = await follow(t, runUrl, { method: 'POST' })
  const late = deferred()
  setTimeout(late.resolve, 100)
  await late.promise
  feed.add(1)
  feed.end()
  t.equal(await response.isComplete, true)
  t.strictSame(dataOf(response), ['1'])
})

for (const fails of [false, true]) {
  t.test(`a response whose run ${fails ? 'cannot be read' : 'is read'} while an onError hook runs for the handlerTimeout sends nothing else`, async t => {
    const store = new FlakyStore()
    const [failing, hookGate, storeGate] = [deferred(), deferred(), deferred()]
    const { runs, runUrl, feed, logged } = await serveRuns(t, {
      plugin: { store: store.createStore },
      serve: {
        fastify: { handlerTimeout: 50 },
        beforeRegister: app => app.addHook('onError', async () => {
          failing.resolve()
          await hookGate.promise
        })
      }
    })
    await runs.start('a', {}, feed.producer)
    store.delay = async name => {
      if (name !== 'follow') return
      await storeGate.promise
      if (fails) throw new StoreUnavailable()
    }
    const response = fetch(runUrl)
    await withTimeout(failing.promise, 'the hook')
    storeGate.resolve()
    // The result reaches the request in microtasks.
    await nextEventLoopTick()
    hookGate.resolve()
    t.equal((await withTimeout(response, 'the response')).status, 503)
    t.equal((await runs.find('a'))?.status, 'running')
    matchList(t, logged().filter(({ msg }) => /after another response/.test(msg)), [{ level: 50, err: { code: fails ? 'FST_SSE_STORE_UNAVAILABLE' : 'FST_ERR_SEND_INSIDE_ONERR' } }])
  })
}

t.test('over HTTP/2, the response is the same', async t => {
  const { port, feed, runs } = await serveRuns(t, { serve: { fastify: http2Options } })
  await runs.start('a', {}, feed.producer)
  feed.add(1)
  const response = await requestHttp2(connectHttp2(t, { port }), { ':path': '/run' })
  feed.end()
  await waitUntil(() => response.text().includes('event: end'), 'the end')
  t.match(response.text(), /^retry: \d+\n\nid: \S+\n\nid: \S+\ndata: 1\n\nid: \S+\nevent: end\ndata: {"status":"finished"}\n\n$/)
})

t.test('over HTTP/2, a response is aborted if finalFrame fails', async t => {
  const { port, feed, runs } = await serveRuns(t, { serve: { fastify: http2Options }, reply: { finalFrame: () => { throw new Error('broken') } } })
  await runs.start('a', {}, feed.producer)
  feed.add(1)
  const client = connectHttp2(t, { port })
  const stream = client.request({ ':path': '/run' })
  let text = ''
  stream.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
  await waitUntil(() => text.includes('data: 1'), 'the event')
  const failed = once(stream, 'error')
  feed.end()
  await withTimeout(failed, 'the end of the response')
  t.not(stream.rstCode, constants.NGHTTP2_NO_ERROR)
})

t.test('with inject, a response is aborted if finalFrame fails', async t => {
  const { app, feed, runs } = await serveRuns(t, { reply: { finalFrame: () => { throw new Error('broken') } } })
  await runs.start('a', {}, feed.producer)
  feed.add(1)
  feed.end()
  await t.rejects(withTimeout(app.inject('/run'), 'the end of the response'), { code: 'LIGHT_ECONNRESET' })
})

t.test('a client that disconnects while the store is called leaves no reader', async t => {
  const store = new FlakyStore()
  const { port, feed, runs } = await serveRuns(t, { plugin: { store: store.createStore } })
  await runs.start('a', {}, feed.producer)
  const called = deferred()
  const proceed = deferred()
  store.delay = name => {
    if (name !== 'follow') return undefined
    called.resolve()
    return proceed.promise
  }
  const client = openRawClient(t, port, { request: 'GET /run HTTP/1.1\r\nHost: localhost\r\n\r\n' })
  await withTimeout(called.promise, 'the call of the store')
  client.socket.destroy()
  await withTimeout(client.closed, 'the disconnect')
  await waitUntil(() => store.calls.includes('find'), 'the request')
  proceed.resolve()
  await waitUntil(() => store.calls.includes('unfollow'), 'the removal of the reader')
  t.strictSame(store.calls.filter(name => name === 'follow' || name === 'unfollow'), ['follow', 'unfollow'])
})

t.test('a run that is removed while a request waits for the store gets 404', async t => {
  const store = new FlakyStore()
  const { runUrl, runs } = await serveRuns(t, { plugin: { store: store.createStore } })
  const run = await runs.start('a', { keep: 0 }, createFeed().producer)
  store.delay = async name => {
    if (name !== 'follow') return
    await run.stop()
    await waitUntil(async () => await runs.find('a') === undefined, 'the removal')
  }
  const response = await fetch(runUrl)
  t.equal(response.status, 404)
  t.match(await response.json(), { code: 'FST_SSE_RUN_UNKNOWN' })
})

t.test('a connection with too many pipelined requests for runs is closed', async t => {
  const { port, feed, runs } = await serveRuns(t)
  await runs.start('a', {}, feed.producer)
  feed.add('one')
  const request = 'GET /run HTTP/1.1\r\nHost: localhost\r\n\r\n'
  const allowed = openRawClient(t, port, { request: request.repeat(2) })
  await allowed.waitFor('"one"')
  const refused = openRawClient(t, port, { request: request.repeat(20) })
  await withTimeout(refused.closed, 'the end of the connection')
  feed.end()
  await waitUntil(() => allowed.text().split('event: end').length === 3, 'both responses')
  t.equal(allowed.text().split('"one"').length, 3)
})
