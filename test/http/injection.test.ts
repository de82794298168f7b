import t, { type Test } from 'tap'
import { request } from 'undici'
import type { Session, SessionData } from '../../lib/index.js'
import { eventSources } from '../support/eventsources.js'
import { serve, type Served } from '../support/server.js'
import { openStream, post, type Stream } from '../support/stream.js'
import { signal, until, within } from '../support/wait.js'

const TRICKY: Record<string, string> = {
  'line feed': 'a\nevent: forged\ndata: 1\n\n',
  'carriage return': 'a\rdata: forged\r\r',
  both: 'a\r\nid: forged\r\n\r\nretry: 1\r\n\r\n',
  'ends of lines': '\n\r\r\n\n',
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

const NO_NAME = ['line feed', 'carriage return', 'both', 'ends of lines', 'NUL', 'lone high surrogate', 'lone low surrogate', 'empty']

const NAMES = Object.entries(TRICKY).filter(([what]) => !NO_NAME.includes(what))

/** An app that relays: what a client posts, every session gets, under the same name. */
async function serveRelay (t: Test): Promise<Served> {
  return await serve(t, {}, {
    after: ({ sseSessions }) => sseSessions.addHook('onMessage', async (_session, { event, data }) => { await sseSessions.broadcast(event, data) })
  })
}

/** Resolves with every event after the welcome, when one named `end` has come. */
async function received (served: Served, stream: Stream): Promise<Array<[event: string, data: unknown]>> {
  await served.sessions.broadcast('end', null)
  await stream.waitFor(({ event }) => event === 'end')
  return stream.events.slice(1, -1).map(({ event, data }) => [event, data])
}

t.test('data arrives from client to client as it was, whatever is in it, and frames stay whole', async t => {
  const served = await serveRelay(t)
  const { url } = served
  const stream = await openStream(t, url)
  const values: unknown[] = []
  for (const [what, text] of Object.entries(TRICKY)) {
    for (const value of [text, { [text]: text }, [text]]) {
      values.push(value)
      t.equal((await post(url, stream.sessionId, JSON.stringify(value))).status, 202, what)
    }
  }
  const batch = values.map(data => JSON.stringify({ data })).join('\n')
  t.equal((await post(url, stream.sessionId, batch, { headers: { 'content-type': 'application/x-ndjson' } })).status, 200)
  t.strictSame(await received(served, stream), [...values, ...values].map(value => ['message', value]))
  t.match(stream.raw(), /^retry: \d+\n/, 'no byte order mark in front')
})

for (const [name, open] of eventSources) {
  t.test(`the EventSource of ${name} gets tricky data and names as they were`, async t => {
    const { url, sessions } = await serve(t)
    const source = open(t, `${url}/downward`)
    const welcome = signal()
    const end = signal()
    const got: Array<[string, unknown]> = []
    const names = NAMES.map(([, name]) => name)
    for (const type of [...names, 'message', 'forged']) {
      source.addEventListener(type, ({ data }) => { got.push([type, JSON.parse(String(data))]) })
    }
    source.addEventListener('welcome', () => { welcome.resolve() })
    source.addEventListener('end', () => { end.resolve() })
    await within(welcome.promise, 'the welcome')
    const sent: Array<[string, unknown]> = [...names.map(name => [name, name] as [string, unknown]), ...Object.values(TRICKY).map(text => ['message', { [text]: text }] as [string, unknown])]
    for (const [event, data] of sent) await sessions.broadcast(event, data)
    await sessions.broadcast('end', null)
    await within(end.promise, 'the end')
    t.strictSame(got, sent)
  })
}

t.test('a name that could break a frame is refused: on the server by emit, stream and broadcast, and in the heartbeat option', async t => {
  const { url, sessions } = await serve(t)
  const stream = await openStream(t, url)
  const session = await sessions.find(stream.sessionId) as Session
  await session.join('room')
  for (const what of NO_NAME) {
    const name = String(TRICKY[what])
    for (const send of [session.emit(name, 1), session.stream(name, [1]), sessions.broadcast(name, 1), sessions.channel('room').emit(name, 1)]) {
      await t.rejects(send, { code: 'FST_SSE_EVENT_INVALID' }, what)
    }
    t.throws(() => { sessions.handle(name, () => {}) }, { code: 'FST_SSE_HANDLER_INVALID' }, what)
    await t.rejects(serve(t, { heartbeatEvent: name }), { code: 'FST_SSE_OPTION_INVALID' }, what)
  }
  t.equal(stream.events.length, 1)
})

t.test('a name that could break a frame never reaches the app: in the path, and in a batch, it is an unknown event', async t => {
  const served = await serveRelay(t)
  const { url } = served
  const stream = await openStream(t, url)
  for (const what of NO_NAME) {
    const event = String(TRICKY[what])
    // A path carries no lone surrogate.
    if (event !== '' && event.isWellFormed()) t.match(await post(url, stream.sessionId, 1, { event }), { status: 404, body: { code: 'FST_SSE_EVENT_UNKNOWN' } }, what)
    const { body } = await post(url, stream.sessionId, JSON.stringify({ event, data: 1 }), { headers: { 'content-type': 'application/x-ndjson' } })
    t.match(body, [{ status: 404, body: { code: 'FST_SSE_EVENT_UNKNOWN' } }], what)
  }
  for (const path of ['/upward/%ED%A0%80', '/upward/%', '/upward/%zz', '/upward/']) {
    const { status } = await post(url, stream.sessionId, 1, { path })
    t.ok(status === 400 || status === 404, path)
  }
  for (const [what, event] of NAMES) t.equal((await post(url, stream.sessionId, 1, { event })).status, 202, what)
  t.strictSame(await received(served, stream), NAMES.map(([, name]) => [name, 1]))
})

t.test("what onOpen and close say cannot break the welcome's and the close event's frame", async t => {
  const { url, sessions } = await serve(t, {}, { after: ({ sseSessions }) => sseSessions.addHook('onOpen', () => ({ ...TRICKY, sessionId: 'forged', resumed: true })) })
  const stream = await openStream(t, url)
  t.strictSame(stream.events[0]?.data, { sessionId: stream.sessionId, resumed: false, heartbeatInterval: 15_000, ...TRICKY })
  const reason = Object.values(TRICKY).join('')
  await (await sessions.find(stream.sessionId))?.close(reason)
  await stream.ended
  t.strictSame(stream.events.slice(1), [{ event: 'close', id: 'closed', data: { reason } }])
})

t.test('__proto__ and constructor in JSON are refused, alone and in batches, as by the rest of the app', async t => {
  const poison = ['{"__proto__":{"polluted":1}}', '{"text":"hi","nested":{"__proto__":{"polluted":1}}}', '{"constructor":{"prototype":{"polluted":1}}}', '{"\\u005f_proto__":{"polluted":1}}']
  const ndjson = { headers: { 'content-type': 'application/x-ndjson' } }
  const served = await serveRelay(t)
  const { url } = served
  const stream = await openStream(t, url)
  for (const body of poison) {
    t.equal((await post(url, stream.sessionId, body)).status, 400, body)
    t.match(await post(url, stream.sessionId, `{"data":1}\n{"data":${body}}`, ndjson), { status: 400, body: { code: 'FST_SSE_BATCH_MALFORMED', message: /^Line 2 / } }, body)
    t.equal((await post(url, stream.sessionId, body, ndjson)).status, 400, body)
  }
  for (const event of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
    t.equal((await post(url, stream.sessionId, 1, { event })).status, 202, 'a name like another')
  }
  t.equal((await received(served, stream)).length, 4)
})

t.test('a client cannot have an app that relays send events of the plugin\'s own', async t => {
  const { url, sessions } = await serveRelay(t)
  sessions.handle('open', () => 'a handler may have any name')
  const { sessionId } = await openStream(t, url)
  for (const event of ['welcome', 'gap', 'close', 'error']) {
    t.match(await post(url, sessionId, {}, { event }), { status: 404, body: { code: 'FST_SSE_EVENT_UNKNOWN' } }, event)
  }
  t.equal((await post(url, sessionId, {}, { event: 'open' })).status, 200)
})

t.test('an app that lets __proto__ through gets it as data, and nothing is polluted', async t => {
  const { url, sessions } = await serve(t, {}, {
    fastify: { onProtoPoisoning: 'ignore', onConstructorPoisoning: 'ignore' },
    after: ({ sseSessions }) => sseSessions
      .addHook('onOpen', () => JSON.parse('{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}') as object)
      .addHook('onMessage', async (session, { data }) => {
        await session.update(data as SessionData)
        await session.send(data)
        return data
      })
  })
  const stream = await openStream(t, url)
  const body = '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}'
  t.equal((await post(url, stream.sessionId, body)).status, 200)
  await post(url, stream.sessionId, `{"data":${body}}`, { headers: { 'content-type': 'application/x-ndjson' } })
  await until(() => stream.raw().split(body).length === 3, 'both messages, as they were')
  const session = await sessions.find(stream.sessionId) as Session
  t.notOk('polluted' in {})
  t.notOk('polluted' in session.data, 'the prototype of its data is none of the client\'s')
  t.ok(stream.raw().includes(body.slice(1, -1)), 'in the welcome, too')
  t.equal(stream.events[0]?.event, 'welcome')
  t.equal(stream.sessionId, session.id)
})

t.test('no session id, cursor or header of a stranger opens a session that is not his', async t => {
  const { url, sessions } = await serve(t, { principal: request => String(request.headers['x-user']) })
  const ann = { 'x-user': 'ann' }
  const bob = { 'x-user': 'bob' }
  const { sessionId, events } = await openStream(t, url, { headers: ann })
  const forgeries = [
    sessionId.slice(0, -1), sessionId.slice(1), `${sessionId}x`, sessionId.toLowerCase(), sessionId.slice(0, 6), ` ${'x'.repeat(24)}`, '.', '__proto__', 'constructor', 'undefined', 'null', '*',
    `${sessionId}, ${sessionId}`, `${sessionId},`, `"${sessionId}"`, `${sessionId};`, encodeURIComponent(`${sessionId}ü`), `${sessionId}\u00e9`, '\u00ff'.repeat(24), 'x'.repeat(5000), '0'.repeat(24)
  ].filter(id => id !== sessionId)
  const cursors = ['', '.', '.zzzzzzzzzzz', '.-1', '.1.5', '.+1', '. 0', '.A', '.0.0', '.\u00e9', `.${'0'.repeat(12)}`]
  const unknown = async (headers: Record<string, string>, what: string): Promise<void> => {
    const stream = await openStream(t, url, { headers })
    t.match(stream.events[0]?.data, { resumed: false, previous: 'unknown' }, what)
    t.not(stream.sessionId, sessionId, what)
    await (await sessions.find(stream.sessionId))?.close()
    t.equal((await openStream(t, url, { headers: { ...headers, 'x-resume': 'required' }, raw: true })).status, 404, what)
  }
  for (const id of forgeries) {
    const what = JSON.stringify(id.slice(0, 40))
    await unknown({ ...ann, 'x-session-id': id }, `X-Session-ID ${what}`)
    await unknown({ ...ann, 'last-event-id': `${id}.0` }, `Last-Event-ID ${what}`)
    t.match(await post(url, id, { text: 'hi' }, { headers: ann }), { status: 404, body: { code: 'FST_SSE_SESSION_UNKNOWN' }, headers: { 'x-session-connected': 'false' } }, what)
    t.equal((await request(`${url}/downward`, { method: 'DELETE', headers: { ...ann, 'x-session-id': id } })).statusCode, 404, what)
  }
  for (const cursor of cursors) {
    await unknown({ ...ann, 'last-event-id': sessionId + cursor }, `cursor ${JSON.stringify(cursor)}`)
  }
  await unknown({ ...bob, 'last-event-id': String(events[0]?.id) }, "another principal's cursor")
  await unknown({ ...bob, 'x-session-id': sessionId }, "another principal's id")
  t.equal((await post(url, sessionId, { text: 'hi' }, { headers: bob })).status, 404)
  t.equal((await request(`${url}/downward`, { method: 'DELETE', headers: { ...bob, 'x-session-id': sessionId } })).statusCode, 404)
  t.equal((await sessions.find(sessionId))?.connected, true, 'none of it touched the session')
})

t.test('session ids are unguessable, all different, and in no URL', async t => {
  const urls: string[] = []
  const { url, sessions } = await serve(t, {}, { before: app => app.addHook('onRequest', async request => { urls.push(request.url) }) })
  const ids = new Set<string>()
  const bits = new Set<string>()
  for (let i = 0; i < 200; i++) {
    const { sessionId, destroy } = await openStream(t, url)
    destroy()
    ids.add(sessionId)
    t.match(sessionId, /^[\w-]{24}$/)
    const bytes = Buffer.from(sessionId, 'base64url')
    for (let bit = 0; bit < 144; bit++) bits.add(`${bit}=${(bytes[bit >> 3] ?? 0) >> (bit & 7) & 1}`)
  }
  t.equal(ids.size, 200)
  t.equal(bits.size, 288, 'each of the 144 bits is set in some and not in others')
  const [id = ''] = ids
  t.ok(await sessions.find(id))
  for (const path of [`/downward?sessionId=${id}`, `/downward?lastEventId=${id}.0`, `/downward?X-Session-ID=${id}`]) {
    t.match((await openStream(t, url, { path })).events[0]?.data, { resumed: false })
  }
  t.equal((await request(`${url}/upward?sessionId=${id}`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' })).statusCode, 400)
})
