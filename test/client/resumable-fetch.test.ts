import { mock } from 'node:test'
import t, { type Test } from 'tap'
import { fetch as undiciFetch } from 'undici'
import { resumableFetch, type ResumableFetchOptions } from '../../lib/client/resumable-fetch.js'
import { needsChromium, openContext } from '../support/browser.js'
import { bundleForBrowser } from '../support/bundle.js'
import { startFaultProxy, type Fault } from '../support/fault-proxy.js'
import { chooseSeed, createRandom } from '../support/random.js'
import { serve, type TestServer } from '../support/server.js'
import { waitUntil, withTimeout } from '../support/wait.js'

type Fetch = NonNullable<ResumableFetchOptions['fetch']>

const EVENT_COUNT = 400
const FAULTS: Fault[] = ['cut', 'reset', 'half-open']

/** Starts a server whose route `/count` streams events with texts of different sizes. */
async function serveCount (t: Test): Promise<TestServer & { readonly requests: string[] }> {
  const requests: string[] = []
  const served = await serve(t, { retry: 1 }, {
    beforeRegister: app => {
      app.get('/', async (_request, reply) => reply.type('text/html').header('connection', 'close').send('<!doctype html><link rel="icon" href="data:,">'))
      app.addHook('onRequest', async ({ method, url, headers }) => { if (url.startsWith('/count')) requests.push(`${method} ${headers.authorization ?? ''}`) })
    },
    afterRegister: app => {
      app.post('/count', { resumable: true }, async (_request, reply) => reply.events(async function * () {
        for (let n = 0; n < EVENT_COUNT; n++) {
          if (n % 20 === 0) await new Promise(resolve => { setTimeout(resolve, 1) })
          yield { event: n % 3 === 0 ? 'step' : 'message', data: { n, text: 'ä€😀'.repeat(n % 50) } }
        }
      }))
    }
  })
  return { ...served, requests }
}

for (const [name, fetch] of [['undici', undiciFetch as unknown as Fetch], ['the global fetch', undefined]] as const) {
  t.test(`a response is complete and unchanged over random faults, with ${name}`, async t => {
    const random = createRandom(chooseSeed(t))
    const { port, requests } = await serveCount(t)
    const proxy = await startFaultProxy(t, port, connection => connection < 8 ? { fault: FAULTS[connection % 2] as Fault, afterBytes: 600 + Math.floor(random() * 4000) } : undefined)
    const request = resumableFetch(fetch === undefined ? {} : { fetch })
    const response = await request(`${proxy.url}/count`, { method: 'POST', headers: { 'content-type': 'application/json', authorization: 'secret' }, body: '{}' })
    t.equal(response.status, 200)
    t.equal(response.url, `${proxy.url}/count`)
    t.match(response.headers.get('content-type'), 'text/event-stream')
    const text = await withTimeout(response.text(), 'the body', 30_000)
    const expected = await (await globalThis.fetch(new URL(response.headers.get('location') ?? '', proxy.url))).text()
    t.ok(text === expected, 'the same text as without faults')
    t.ok(requests.length >= 5, `${requests.length} requests`)
    t.equal(requests[0], 'POST secret')
    t.ok(requests.slice(1, -1).every(request => request === 'GET secret'))
  })
}

t.test('works in Chromium', needsChromium, async t => {
  const { port, requests } = await serveCount(t)
  let isArmed = false
  const proxy = await startFaultProxy(t, port, connection => isArmed && connection < 10 ? { fault: FAULTS[connection % 2] as Fault, afterBytes: 900 + 700 * connection } : undefined)
  const page = await (await openContext(t)).newPage()
  await page.goto(proxy.url)
  await page.addScriptTag({ content: (await bundleForBrowser(new URL('../../dist/client/resumable-fetch.js', import.meta.url))).replace(/export \{[^}]*\};?\s*$/, 'window.resumableFetch = resumableFetch'), type: 'module' })
  isArmed = true
  const [text, expected] = await page.evaluate(`(async () => {
    const response = await resumableFetch()('/count', { method: 'POST', headers: { authorization: 'secret' } })
    return [await response.text(), await (await fetch(response.headers.get('location'))).text()]
  })()`) as [string, string]
  t.ok(text === expected, 'the same text as without faults')
  t.ok(requests.length >= 5, `${requests.length} requests`)
})

/** Sends nothing. Responds to each request with the next response: a function may return a promise or throw. */
function scriptFetch (...responses: Array<Response | (() => Response | Promise<Response>)>) {
  const requests: Array<{ url: string, method: string | undefined, headers: Headers, signal: AbortSignal | null | undefined }> = []
  const fetch: Fetch = async (input, init) => {
    requests.push({ url: String(input instanceof Request ? input.url : input), method: init?.method, headers: new Headers(init?.headers), signal: init?.signal })
    const response = responses.shift()
    if (response === undefined) throw new TypeError('unexpected request')
    return typeof response === 'function' ? await response() : response
  }
  return { fetch, requests }
}

const HEADERS = { 'content-type': 'text/event-stream', location: '/run' }
const LOST = new TypeError('terminated')

/** A response of a run. After its chunks, its body ends, fails or stays open. */
function stream (chunks: Array<string | Uint8Array>, end: Error | 'end' | 'open' = 'end', headers: Record<string, string> = HEADERS, url = 'http://server/ask'): Response {
  const body = new ReadableStream({
    pull (controller) {
      const chunk = chunks.shift()
      if (chunk !== undefined) controller.enqueue(typeof chunk === 'string' ? new TextEncoder().encode(chunk) : chunk)
      else if (end === 'end') controller.close()
      else if (end !== 'open') controller.error(end)
      else return new Promise<void>(() => {})
      return undefined
    }
  })
  return Object.defineProperty(new Response(body, { headers }), 'url', { value: url })
}

const post = async (fetch: Fetch, options: ResumableFetchOptions = {}, init: RequestInit = {}): Promise<Response> =>
  await resumableFetch({ fetch, ...options })('http://server/ask', { method: 'POST', body: '{}', ...init })

for (const [name, lineEnd] of [['LF', '\n'], ['CRLF', '\r\n'], ['CR', '\r']] as const) {
  t.test(`continues after a cut at any byte, with lines that end with ${name}`, async t => {
    const blocks = ['retry: 1\n\n', 'id: r.0\n\n', 'id: r.1\ndata: ä€\ndata:\n\n', ': heartbeat\n\n', 'id: r.2\nevent: x\ndata: id: r.9\n\n', 'event: end\nid: r.3\ndata: 1\n\n'].map(block => block.replaceAll('\n', lineEnd))
    const all = new TextEncoder().encode(blocks.join(''))
    // Before the first block has arrived, the delay is a second.
    for (let cut = blocks[0]?.length ?? 0; cut <= all.length; cut++) {
      for (const size of [all.length, 3]) {
        const cutBody = all.subarray(0, cut)
        const chunks = Array.from({ length: Math.ceil(cutBody.length / size) }, (_, n) => cutBody.subarray(n * size, (n + 1) * size))
        const { fetch, requests } = scriptFetch(stream(chunks, LOST), () => {
          const id = requests[1]?.headers.get('last-event-id') ?? null
          const index = id === null ? 1 : blocks.findIndex(block => block.includes(`id: ${id}${lineEnd}`))
          if (index === blocks.length - 1) return new Response(null, { status: 204 })
          // The heartbeat is not part of the log.
          const rest = blocks.slice(index + 1).filter(block => !block.startsWith(':'))
          return stream([`retry: 1\n\nid: ${id ?? 'r.0'}\n\n`, ...rest])
        })
        const response = await post(fetch)
        const text = await response.text()
        const events = (text: string): string => text.replace(/\r\n?/g, '\n').replace(': heartbeat\n\n', '').replace(/^(?:(?:retry|id): .*\n\n)*/, '')
        if (events(text) !== events(blocks.join(''))) t.fail(`cut at ${cut}, chunks of ${size}: ${JSON.stringify(text)}`)
      }
    }
    t.end()
  })
}

t.test('returns other responses unchanged', async t => {
  const url = 'http://server/ask'
  for (const [response, method] of [
    [Response.json({ a: 1 }), 'POST'],
    [Response.json({}, { status: 404 }), 'GET'],
    [new Response('busy', { status: 503, headers: HEADERS }), 'POST'],
    [new Response(null, { status: 204, headers: HEADERS }), 'GET'],
    [new Response('x'), 'GET'],
    [stream(['x'], 'end', { location: '/run' }), 'POST'],
    [stream(['data: 1\n\n'], 'end', { 'content-type': 'text/event-stream' }), 'POST'],
    [stream(['data: 1\n\n'], 'end', { ...HEADERS, location: 'http://other/run' }), 'POST']
  ] as const) t.equal(await resumableFetch({ fetch: scriptFetch(response).fetch })(url, { method }), response)
  await t.rejects(resumableFetch({ fetch: scriptFetch(() => { throw LOST }).fetch })(url), LOST)
})

t.test('continues at the Location, or at the URL of a GET, with the headers and options of the request', async t => {
  const event = 'id: r.1\ndata: 1\n\n'
  const gone = (): Response => new Response(null, { status: 204 })
  const { fetch, requests } = scriptFetch(stream([event], LOST), gone, stream([event], LOST, { 'content-type': 'text/event-stream' }), gone, stream([event], LOST, HEADERS, ''), gone)
  const request = resumableFetch({ fetch })
  t.equal(await (await request(new Request('http://server/ask', { method: 'POST', body: '{}', headers: { authorization: 'a', 'content-type': 'application/json' } }))).text(), event)
  t.equal(await (await request(new URL('http://server/ask?q=1'), { headers: { authorization: 'b' } })).text(), event)
  t.equal(await (await request('/ask', { method: 'POST' })).text(), event)
  const resumed = requests.filter((_, index) => index % 2 === 1)
  t.strictSame(resumed.map(({ url, method }) => `${method} ${url}`), ['GET http://server/run', 'GET http://server/ask?q=1', 'GET /run'])
  t.strictSame(resumed.map(({ headers }) => Object.fromEntries(headers)), [{ authorization: 'a', 'last-event-id': 'r.1' }, { authorization: 'b', 'last-event-id': 'r.1' }, { 'last-event-id': 'r.1' }])
})

t.test('the body fails if the run is unknown, if the time is over, or if there is no id to continue after', async t => {
  const event = 'retry: 1\n\nid: r.1\ndata: 1\n\n'
  const unknown = scriptFetch(stream([event], LOST), Response.json({ code: 'FST_SSE_RUN_UNKNOWN', message: 'There is no such run' }, { status: 404 }))
  await t.rejects((await post(unknown.fetch)).text(), { name: 'ClientError', code: 'FST_SSE_RUN_UNKNOWN', status: 404, message: 'There is no such run' })
  t.equal(unknown.requests.length, 2)
  await t.rejects((await post(scriptFetch(stream([event], LOST)).fetch, { timeout: 20 })).text(), { code: 'TIMEOUT', cause: { message: 'unexpected request' } })
  await t.rejects((await post(scriptFetch(stream([event], LOST), new Response('busy', { status: 503, headers: { 'retry-after': '60' } })).fetch, { timeout: 50_000 })).text(), { code: 'TIMEOUT', cause: { status: 503 } })
  const withoutId = scriptFetch(stream(['data: 1\n\n'], LOST))
  await t.rejects((await post(withoutId.fetch)).text(), LOST)
  t.equal(withoutId.requests.length, 1)
})

t.test('a server that aborts each response after its preamble does not prolong the timeout', async t => {
  const preamble = (): Response => stream(['retry: 1\n\nid: r.1\n\n'], LOST)
  const { fetch } = scriptFetch(stream(['retry: 1\n\nid: r.1\ndata: 1\n\n'], LOST), ...Array.from({ length: 1000 }, () => preamble))
  await t.rejects(withTimeout((await post(fetch, { timeout: 50 })).text(), 'the body'), { code: 'TIMEOUT', cause: LOST })
})

t.test('a line separator of Unicode in the data of an event does not end a line', async t => {
  const events = 'retry: 1\n\nid: r.0\n\nid: r.1\ndata: "a\u2028id: forged\u2029retry: 600000\u2028"\n\n'
  const { fetch, requests } = scriptFetch(stream([events], LOST), new Response(null, { status: 204 }))
  t.equal(await withTimeout((await post(fetch)).text(), 'the body'), events)
  t.equal(requests[1]?.headers.get('last-event-id'), 'r.1')
})

t.test('a clock that is set forward does not end the timeout', async t => {
  const event = 'retry: 1\n\nid: r.1\ndata: 1\n\n'
  let lead = 0
  const { now } = Date
  t.intercept(Date, 'now', { value: () => now() + lead })
  const { fetch } = scriptFetch(stream([event], LOST), () => {
    lead = 3_600_000
    throw LOST
  }, new Response(null, { status: 204 }))
  t.equal(await withTimeout((await post(fetch)).text(), 'the body'), event)
})

t.test('a Retry-After of 0 does not prolong the timeout, and one whose delay is over does not shorten it', async t => {
  const event = 'retry: 1\n\nid: r.1\ndata: 1\n\n'
  const busy = (value: string) => () => new Response('busy', { status: 503, headers: { 'retry-after': value } })
  const passed = scriptFetch(stream([event], LOST), ...Array.from({ length: 1000 }, () => busy('0')))
  await t.rejects(withTimeout((await post(passed.fetch, { timeout: 50 })).text(), 'the body'), { code: 'TIMEOUT', cause: { status: 503 } })
  const earlier = scriptFetch(stream([event], LOST), busy('2'), () => { throw LOST }, new Response(null, { status: 204 }))
  t.equal(await (await post(earlier.fetch, { timeout: 3900 })).text(), event)
})

t.test('waits for Retry-After after a temporary error, and tries again after a response that is no stream', async t => {
  const { fetch, requests } = scriptFetch(stream(['retry: 1\n\nid: r.0\n\n'], LOST), new Response('busy', { status: 503, headers: { 'retry-after': '1' } }), new Response('<h1>Log in</h1>', { headers: { 'content-type': 'text/html' } }), stream(['x'], 'end', {}), stream(['id: r.0\n\n', 'data: 1\n\n', 'rest']))
  const startedAt = performance.now()
  t.equal(await (await post(fetch)).text(), 'retry: 1\n\nid: r.0\n\ndata: 1\n\nrest')
  t.ok(performance.now() - startedAt >= 999)
  t.equal(requests.length, 5)
})

t.test('the body fails with the reason of the signal: while it is read, while it is not, and during a delay', async t => {
  const reason = new Error('enough')
  for (const [first, isRead] of [[stream(['id: r.0\n\n'], 'open'), true], [stream(['id: r.0\n\n'], 'open'), false], [stream(['retry: 60000\n\nid: r.0\n\n'], LOST), true]] as const) {
    const controller = new AbortController()
    const { fetch, requests } = scriptFetch(first)
    const reader = (await post(fetch, {}, { signal: controller.signal })).body?.getReader()
    await reader?.read()
    const next = isRead ? reader?.read() : undefined
    next?.catch(() => {})
    await new Promise(resolve => { setImmediate(resolve) })
    controller.abort(reason)
    await t.rejects(withTimeout(next ?? reader?.read() as Promise<unknown>, 'the rejection'), reason)
    t.equal(requests.length, 1)
  }
})

t.test('the body fails with the reason of a signal that aborts while the fetch of the app has not returned the response yet', async t => {
  const controller = new AbortController()
  const reason = new Error('enough')
  const { fetch, requests } = scriptFetch(stream(['id: r.0\n\n'], LOST), stream(['data: 1\n\n']))
  const response = await post(async (url, init) => {
    const response = await fetch(url, init)
    controller.abort(reason)
    return response
  }, {}, { signal: controller.signal })
  await t.rejects(withTimeout(response.text(), 'the rejection'), reason)
  t.equal(requests.length, 1)
})

t.test('a canceled body sends no more requests, and aborts the current one', async t => {
  const { fetch, requests } = scriptFetch(stream(['retry: 1\n\nid: r.0\n\n'], LOST), () => new Promise(() => {}))
  const reader = (await post(fetch)).body?.getReader()
  await reader?.read()
  const next = reader?.read()
  await waitUntil(() => requests.length === 2, 'the second request')
  await reader?.cancel()
  t.strictSame(await next, { done: true, value: undefined })
  t.equal(requests[1]?.signal?.aborted, true)
})

t.test('replaces a connection without data for 37.5 seconds', async t => {
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => { mock.timers.reset() })
  const { fetch, requests } = scriptFetch(stream(['retry: 1\n\nid: r.0\n\n'], 'open'), stream(['data: 1\n\n']))
  const reader = (await post(fetch)).body?.getReader()
  await reader?.read()
  const next = reader?.read()
  const drain = async (): Promise<void> => { for (let tick = 0; tick < 5; tick++) await new Promise(resolve => { setImmediate(resolve) }) }
  await drain()
  mock.timers.tick(37_499)
  await drain()
  mock.timers.tick(1)
  await drain()
  t.equal(requests.length, 1, 'not before the retry delay')
  mock.timers.tick(5)
  t.equal(new TextDecoder().decode((await next)?.value), 'data: 1\n\n')
  t.equal(requests.length, 2)
})
