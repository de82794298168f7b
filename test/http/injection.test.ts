import t, { type Test } from 'tap'
import type { Session, SessionData } from '../../lib/index.js'
import { eventSources } from '../support/event-sources.js'
import { matchList } from '../support/match-list.js'
import { serve, type TestServer } from '../support/server.js'
import { openStream, postMessage, type ClientStream } from '../support/http-client.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'

/** Texts that could break a frame or a parser. */
const SPECIAL_TEXTS: Record<string, string> = {
  'line feed': 'a\nevent: forged\ndata: 1\n\n',
  'carriage return': 'a\rdata: forged\r\r',
  both: 'a\r\nid: forged\r\n\r\nretry: 1\r\n\r\n',
  'line endings': '\n\r\r\n\n',
  NUL: 'a\0b',
  'lone high surrogate': 'a\ud800b',
  'lone low surrogate': '\udc00',
  'surrogate pair': '😀',
  'line separator': 'a\u2028b\u2029c',
  'next line, vertical tab, form feed': 'a\u0085b\vc\fd',
  'byte order mark': '\ufeffa\ufeff',
  noncharacters: '\ufffe\uffff\u{10ffff}',
  'colon and space': ': a: b',
  empty: '',
  'close tags': '</script><!--'
}

/** Those that are invalid as event names. */
const INVALID_NAMES = ['line feed', 'carriage return', 'both', 'line endings', 'NUL', 'lone high surrogate', 'lone low surrogate', 'empty']

const VALID_NAMES = Object.entries(SPECIAL_TEXTS).filter(([what]) => !INVALID_NAMES.includes(what))

/** Serves an app that broadcasts every message of a client, with the same event name. */
async function serveRelay (t: Test): Promise<TestServer> {
  return await serve(t, {}, {
    afterRegister: ({ sseSessions }) => sseSessions.addHook('onMessage', async (_session, { event, data }) => { await sseSessions.broadcast(event, data) })
  })
}

/** Broadcasts an event `end`, and resolves with the events between the welcome event and that one. */
async function readEvents (served: TestServer, stream: ClientStream): Promise<Array<[event: string, data: unknown]>> {
  await served.sessions.broadcast('end', null)
  await stream.waitFor(({ event }) => event === 'end')
  return stream.events.slice(1, -1).map(({ event, data }) => [event, data])
}

t.test('special characters in data arrive unchanged, and do not break frames', async t => {
  const served = await serveRelay(t)
  const { url } = served
  const stream = await openStream(t, url)
  const values: unknown[] = []
  for (const [what, text] of Object.entries(SPECIAL_TEXTS)) {
    for (const value of [text, { [text]: text }, [text]]) {
      values.push(value)
      t.equal((await postMessage(url, stream.sessionId, JSON.stringify(value))).status, 202, what)
    }
  }
  const batch = values.map(data => JSON.stringify({ data })).join('\n')
  t.equal((await postMessage(url, stream.sessionId, batch, { headers: { 'content-type': 'application/x-ndjson' } })).status, 200)
  t.strictSame(await readEvents(served, stream), [...values, ...values].map(value => ['message', value]))
  t.match(stream.text(), /^retry: \d+\n/, 'the stream does not begin with a byte order mark')
})

for (const [name, open] of eventSources) {
  t.test(`the EventSource of ${name} receives special characters in data and event names unchanged`, async t => {
    const { url, sessions } = await serve(t)
    const source = open(t, `${url}/downward`)
    const welcome = deferred()
    const end = deferred()
    const received: Array<[string, unknown]> = []
    const names = VALID_NAMES.map(([, name]) => name)
    for (const type of [...names, 'message', 'forged']) {
      source.addEventListener(type, ({ data }) => { received.push([type, JSON.parse(String(data))]) })
    }
    source.addEventListener('welcome', () => { welcome.resolve() })
    source.addEventListener('end', () => { end.resolve() })
    await withTimeout(welcome.promise, 'the welcome')
    const sent: Array<[string, unknown]> = [...names.map(name => [name, name] as [string, unknown]), ...Object.values(SPECIAL_TEXTS).map(text => ['message', { [text]: text }] as [string, unknown])]
    for (const [event, data] of sent) await sessions.broadcast(event, data)
    await sessions.broadcast('end', null)
    await withTimeout(end.promise, 'the end')
    t.strictSame(received, sent)
  })
}

t.test('the server API rejects event names that could break a frame', async t => {
  const { url, sessions } = await serve(t)
  const stream = await openStream(t, url)
  const session = await sessions.find(stream.sessionId) as Session
  await session.join('room')
  for (const what of INVALID_NAMES) {
    const name = String(SPECIAL_TEXTS[what])
    for (const send of [session.emit(name, 1), session.stream(name, [1]), sessions.broadcast(name, 1), sessions.channel('room').emit(name, 1)]) {
      await t.rejects(send, { code: 'FST_SSE_EVENT_INVALID' }, what)
    }
    t.throws(() => { sessions.handle(name, () => {}) }, { code: 'FST_SSE_HANDLER_INVALID' }, what)
    await t.rejects(serve(t, { heartbeatEvent: name }), { code: 'FST_SSE_OPTION_INVALID' }, what)
  }
  t.equal(stream.events.length, 1)
})

t.test('responds with 404 to a message or a line of a batch whose event name could break a frame', async t => {
  const served = await serveRelay(t)
  const { url } = served
  const stream = await openStream(t, url)
  for (const what of INVALID_NAMES) {
    const event = String(SPECIAL_TEXTS[what])
    // A URL cannot contain a lone surrogate.
    if (event !== '' && event.isWellFormed()) t.match(await postMessage(url, stream.sessionId, 1, { event }), { status: 404, body: { code: 'FST_SSE_EVENT_UNKNOWN' } }, what)
    const { body } = await postMessage(url, stream.sessionId, JSON.stringify({ event, data: 1 }), { headers: { 'content-type': 'application/x-ndjson' } })
    // An empty name fails the validation of the route, as in a single message.
    matchList(t, body, [event === '' ? { status: 400, body: { code: 'FST_ERR_VALIDATION' } } : { status: 404, body: { code: 'FST_SSE_EVENT_UNKNOWN' } }], what)
  }
  for (const path of ['/upward/%ED%A0%80', '/upward/%', '/upward/%zz', '/upward/']) {
    const { status } = await postMessage(url, stream.sessionId, 1, { path })
    t.ok(status === 400 || status === 404, path)
  }
  for (const [what, event] of VALID_NAMES) t.equal((await postMessage(url, stream.sessionId, 1, { event })).status, 202, what)
  t.strictSame(await readEvents(served, stream), VALID_NAMES.map(([, name]) => [name, 1]))
})

t.test('data of onOpen and the reason of close cannot break the frames of welcome and close', async t => {
  const { url, sessions } = await serve(t, {}, { afterRegister: ({ sseSessions }) => sseSessions.addHook('onOpen', () => ({ ...SPECIAL_TEXTS, sessionId: 'forged', resumed: true })) })
  const stream = await openStream(t, url)
  t.strictSame(stream.events[0]?.data, { sessionId: stream.sessionId, resumed: false, heartbeatInterval: 15_000, ...SPECIAL_TEXTS })
  const reason = Object.values(SPECIAL_TEXTS).join('')
  await (await sessions.find(stream.sessionId))?.close(reason)
  await stream.ended
  t.strictSame(stream.events.slice(1), [{ event: 'close', id: 'closed', data: { reason } }])
})

t.test('responds with 400 to JSON with __proto__ or constructor.prototype, in a message and in a batch', async t => {
  const poisoned = ['{"__proto__":{"polluted":1}}', '{"text":"hi","nested":{"__proto__":{"polluted":1}}}', '{"constructor":{"prototype":{"polluted":1}}}', '{"\\u005f_proto__":{"polluted":1}}']
  const ndjson = { headers: { 'content-type': 'application/x-ndjson' } }
  const served = await serveRelay(t)
  const { url } = served
  const stream = await openStream(t, url)
  for (const body of poisoned) {
    t.equal((await postMessage(url, stream.sessionId, body)).status, 400, body)
    const batch = await postMessage(url, stream.sessionId, `{"data":1}\n{"event":"unknown","data":${body}}`, ndjson)
    matchList(t, batch.body, [{ status: 202 }, { status: 400, body: { code: 'FST_ERR_CTP_INVALID_JSON_BODY' } }], body)
  }
  for (const event of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
    t.equal((await postMessage(url, stream.sessionId, 1, { event })).status, 202, 'such names are valid event names')
  }
  t.equal((await readEvents(served, stream)).length, 4 + poisoned.length)
})

t.test('a client cannot make a relaying app send reserved events', async t => {
  const { url, sessions } = await serveRelay(t)
  sessions.handle('open', () => 'a handler of a reserved name')
  const { sessionId } = await openStream(t, url)
  for (const event of ['welcome', 'gap', 'close', 'error']) {
    t.match(await postMessage(url, sessionId, {}, { event }), { status: 404, body: { code: 'FST_SSE_EVENT_UNKNOWN' } }, event)
  }
  t.equal((await postMessage(url, sessionId, {}, { event: 'open' })).status, 200)
})

t.test('an app that accepts __proto__ receives it as data, and no prototype is polluted', async t => {
  const { url, sessions } = await serve(t, {}, {
    fastify: { onProtoPoisoning: 'ignore', onConstructorPoisoning: 'ignore' },
    afterRegister: ({ sseSessions }) => sseSessions
      .addHook('onOpen', () => JSON.parse('{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}') as object)
      .addHook('onMessage', async (session, { data }) => {
        await session.update(data as SessionData)
        await session.send(data)
        return data
      })
  })
  const stream = await openStream(t, url)
  const body = '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}'
  t.equal((await postMessage(url, stream.sessionId, body)).status, 200)
  await postMessage(url, stream.sessionId, `{"data":${body}}`, { headers: { 'content-type': 'application/x-ndjson' } })
  await waitUntil(() => stream.text().split(body).length === 3, 'both messages, unchanged')
  const session = await sessions.find(stream.sessionId) as Session
  t.notOk('polluted' in {})
  t.notOk('polluted' in session.data, 'the client did not set the prototype of the session data')
  t.ok(stream.text().includes(body.slice(1, -1)), 'the welcome event contains it, too')
  t.equal(stream.events[0]?.event, 'welcome')
  t.equal(stream.sessionId, session.id)
})
