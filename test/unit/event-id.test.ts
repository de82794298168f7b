import assert from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import { CLOSED_ID, formatEventId, parseEventId } from '../../lib/wire/event-id.js'
import { chooseSeed } from '../support/random.js'
import { codePoints } from './support/code-points.js'

const SESSION_ID = 'abcdefghij_KLMNOPQRST-90'
const base64url = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
const sessionIds = fc.string({ unit: fc.constantFrom(...base64url), minLength: 24, maxLength: 24 })

t.test('an event id contains the session id and the position, in less than 128 bytes of printable ASCII', async t => {
  fc.assert(fc.property(sessionIds, fc.maxSafeNat(), (sessionId, position) => {
    const text = formatEventId(sessionId, position)
    assert.deepEqual(parseEventId(text), { id: sessionId, position })
    return /^[\x21-\x7e]{1,127}$/.test(text)
  }), { seed: chooseSeed(t) })
  t.strictSame(parseEventId(formatEventId(SESSION_ID, Number.MAX_SAFE_INTEGER)), { id: SESSION_ID, position: Number.MAX_SAFE_INTEGER })
  t.strictSame(parseEventId(`${SESSION_ID}.0`), { id: SESSION_ID, position: 0 })
})

t.test('a text that is not an event id of this plugin is rejected', async t => {
  const id = SESSION_ID
  for (const text of [
    '', '.', id, `${id}.`, `.${id}`, `${id}.-1`, `${id}.1.2`, `${id}.1.0`, `${id} .1`, ` ${id}.1`, `${id}.1 `, `${id}.1\n`, `\n${id}.1`,
    `${id}.A`, `${id}.é`, `${id}.1e+3`, `${id.slice(1)}.1`, `${id}a.1`, `${id.slice(1)}é.1`, `${id.slice(1)}=.1`, `${id}\0.1`,
    // The largest safe integer plus one, and much larger numbers.
    `${id}.${(2 ** 53).toString(36)}`, `${id}.zzzzzzzzzzz`, `${id}.100000000000`,
    CLOSED_ID
  ]) {
    t.equal(parseEventId(text), undefined, JSON.stringify(text))
  }
})

t.test('a random text is either rejected, or parsed into a session id and a position that it contains', async t => {
  const almostEventIds = fc.tuple(sessionIds, fc.constantFrom('.', '..', ''), fc.string({ unit: fc.constantFrom(...'09azAZ.-+ \n\0é') })).map(parts => parts.join(''))
  fc.assert(fc.property(fc.oneof(fc.string({ unit: codePoints }), almostEventIds), text => {
    const parsed = parseEventId(text)
    if (parsed === undefined) return
    assert.ok(text.startsWith(`${parsed.id}.`))
    assert.equal(Number.parseInt(text.slice(25), 36), parsed.position)
    assert.ok(Number.isSafeInteger(parsed.position))
  }), { seed: chooseSeed(t), numRuns: 2000 })
})
