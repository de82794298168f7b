import assert from 'node:assert/strict'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import fc from 'fast-check'
import t from 'tap'
import { parseEventId } from '../../lib/wire/event-id.js'
import { frameClose, frameEvent, frameGap, frameHeartbeatEvent, frameSuffix, frameRetry, framePrefix, frameWelcome, HEARTBEAT_FRAME, isEventName, REPLACED_FRAME } from '../../lib/wire/frame.js'
import { createRandom, chooseSeed } from '../support/random.js'
import { codePoints } from './support/code-points.js'

const sessionId = 'abcdefghij_KLMNOPQRST-90'
// Characters and sequences that could break a frame.
const dangerous = fc.constantFrom('\r', '\n', '\r\n', '\0', '\u2028', '\u2029', '\u0085', '\ufeff', '\ud800', '\udfff', '😀', ':', ' ', 'data: x', '\nid: 1\n', '\n\n', 'é', 'a')
const strings = fc.oneof(fc.string({ unit: dangerous, maxLength: 12 }), fc.string({ unit: codePoints }))

/** Parses a stream with a real SSE parser, which receives the bytes in chunks of random sizes. */
function parse (text: string, next: () => number): { events: EventSourceMessage[], comments: string[], retries: number[] } {
  const events: EventSourceMessage[] = []
  const comments: string[] = []
  const retries: number[] = []
  const parser = createParser({
    onEvent: event => { events.push(event) },
    onComment: comment => { comments.push(comment) },
    onRetry: retry => { retries.push(retry) },
    onError: error => { throw error }
  })
  const decoder = new TextDecoder()
  const bytes = Buffer.from(text)
  for (let start = 0; start < bytes.length;) {
    const end = start + 1 + Math.floor(next() * 40)
    parser.feed(decoder.decode(bytes.subarray(start, end), { stream: true }))
    start = end
  }
  return { events, comments, retries }
}

const RESERVED = ['welcome', 'gap', 'close', 'replaced', 'part', 'request', 'open', 'error', 'resume', 'disconnect', 'reset']

t.test('a valid event name and any JSON arrive unchanged, in one event', async t => {
  const seed = chooseSeed(t)
  const next = createRandom(seed)
  fc.assert(fc.property(strings.filter(isEventName), fc.jsonValue({ stringUnit: codePoints }), strings, (name, json, text) => {
    const event = RESERVED.includes(name) ? 'message' : name
    const data = { json, text, [text]: [text] }
    const { events, comments, retries } = parse(framePrefix(sessionId) + frameSuffix(7, frameEvent(event, data)) + frameRetry(5), next)
    assert.deepEqual(events.map(event => ({ event: event.event ?? 'message', id: event.id, data: JSON.parse(event.data) })), [
      { event, id: `${sessionId}.7`, data: JSON.parse(JSON.stringify(data)) }
    ])
    assert.deepEqual([comments, retries], [[], [5]])
  }), { seed, numRuns: 2000 })
})

t.test('a name that an SSE parser would not return unchanged is rejected, and every other name is accepted', async t => {
  fc.assert(fc.property(strings, name => {
    const isInvalid = name === '' || /[\r\n\0]/.test(name) || !name.isWellFormed()
    assert.equal(isEventName(name), !isInvalid, JSON.stringify(name))
    if (isInvalid) assert.throws(() => frameEvent(name, 1), { code: 'FST_SSE_EVENT_INVALID', statusCode: 500 })
  }), { seed: chooseSeed(t), numRuns: 2000 })
  t.strictSame(['a\rb', 'a\nb', 'a\0b', '\ud800', 'a\udc00', ''].filter(isEventName), [])
  const unusual = [' a', 'a:b', '\u2028', '\u2029', '\ufeff', '\u0085', '😀', '__proto__', '\t']
  t.strictSame(unusual.filter(isEventName), unusual)
})

t.test('reserved names and values that are not strings are rejected as event names', async t => {
  for (const name of RESERVED) {
    t.throws(() => frameEvent(name, 1), { code: 'FST_SSE_EVENT_INVALID', message: JSON.stringify(name) })
  }
  const circular: object[] = []
  circular.push(circular)
  for (const name of [undefined, null, 1, 1n, {}, circular, Symbol('name'), () => {}]) {
    t.notOk(isEventName(name))
    t.throws(() => frameEvent(name as string, 1), { code: 'FST_SSE_EVENT_INVALID' })
  }
})

t.test('the default event has no event field, and undefined is sent as null', async t => {
  t.equal(frameEvent('message', { a: 1 }), 'data: {"a":1}\n\n')
  t.equal(frameEvent('message', undefined), 'data: null\n\n')
  t.equal(frameEvent('tick', undefined), 'event: tick\ndata: null\n\n')
})

t.test('data that is not serializable as JSON is rejected', async t => {
  const circular: Record<string, unknown> = {}
  circular.self = circular
  const throwsError = { toJSON: () => { throw new Error('cannot serialize') } }
  // eslint-disable-next-line no-throw-literal
  const throwsString = { toJSON: () => { throw 'a string' } }
  for (const [data, message] of [[circular, /circular/], [1n, /BigInt/], [throwsError, /cannot serialize/], [throwsString, /a string/]] as const) {
    t.throws(() => frameEvent('a', data), { code: 'FST_SSE_DATA_INVALID', message })
  }
  for (const data of [() => {}, Symbol('data'), { toJSON: () => undefined }]) {
    t.throws(() => frameEvent('a', data), { code: 'FST_SSE_DATA_INVALID', message: `it is a ${typeof data}` })
  }
})

t.test('welcome, gap and close are each one event, whatever text they contain', async t => {
  const seed = chooseSeed(t)
  const next = createRandom(seed)
  fc.assert(fc.property(strings, fc.maxSafeNat(), fc.nat(), (text, position, retry) => {
    const gap = { after: position, resumedAt: position, reason: 'age' } as const
    const frames = frameWelcome(sessionId, position, retry, JSON.stringify({ text })) + frameGap(sessionId, position, gap) + frameClose(text)
    const { events, retries } = parse(frames, next)
    assert.deepEqual(retries, [retry])
    assert.deepEqual(events.map(({ event, data }) => [event, JSON.parse(data)]), [
      ['welcome', JSON.parse(JSON.stringify({ text }))],
      ['gap', gap],
      ['close', JSON.parse(JSON.stringify({ reason: text }))]
    ])
    assert.deepEqual(events.slice(0, 2).map(({ id = '' }) => parseEventId(id)), [{ id: sessionId, position }, { id: sessionId, position }])
    assert.equal(events[2]?.id, 'closed')
  }), { seed })
})

t.test('a heartbeat is a comment and a blank line; replaced and named heartbeats are events', async t => {
  const next = createRandom(1)
  t.equal(HEARTBEAT_FRAME, ': heartbeat\n\n')
  t.strictSame(parse(HEARTBEAT_FRAME + frameEvent('a', 1), next).events.map(({ event }) => event), ['a'])
  t.strictSame(parse(REPLACED_FRAME, next).events, [{ event: 'replaced', id: 'closed', data: '{}' }])
  t.strictSame(parse(frameHeartbeatEvent('ping'), next).events, [{ event: 'ping', id: undefined, data: '{}' }])
})
