import assert from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import { CLOSED_ID, formatEventId, parseEventId } from '../../lib/wire/event-id.js'
import { seedOf } from '../support/random.js'

const id = 'abcdefghij_KLMNOPQRST-90'
const base64url = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
const sessionIds = fc.string({ unit: fc.constantFrom(...base64url), minLength: 24, maxLength: 24 })

t.test('an id gives back the session and the position it was made of, in printable ASCII under 128 bytes', async t => {
  fc.assert(fc.property(sessionIds, fc.maxSafeNat(), (sessionId, position) => {
    const text = formatEventId(sessionId, position)
    assert.deepEqual(parseEventId(text), { sessionId, position })
    return /^[\x21-\x7e]{1,127}$/.test(text)
  }), { seed: seedOf(t) })
  t.strictSame(parseEventId(formatEventId(id, Number.MAX_SAFE_INTEGER)), { sessionId: id, position: Number.MAX_SAFE_INTEGER })
  t.strictSame(parseEventId(`${id}.0`), { sessionId: id, position: 0 })
})

t.test('what is not one of our ids is none', async t => {
  for (const text of [
    '', '.', id, `${id}.`, `.${id}`, `${id}.-1`, `${id}.1.2`, `${id}.1.0`, `${id} .1`, ` ${id}.1`, `${id}.1 `, `${id}.1\n`, `\n${id}.1`,
    `${id}.A`, `${id}.é`, `${id}.1e+3`, `${id.slice(1)}.1`, `${id}a.1`, `${id.slice(1)}é.1`, `${id.slice(1)}=.1`, `${id}\0.1`,
    // One more than the largest safe integer, and far more.
    `${id}.${(2 ** 53).toString(36)}`, `${id}.zzzzzzzzzzz`, `${id}.100000000000`,
    CLOSED_ID
  ]) {
    t.equal(parseEventId(text), undefined, JSON.stringify(text))
  }
})

t.test('whatever text comes is read as an id whose parts are in it, or as none', async t => {
  const nearly = fc.tuple(sessionIds, fc.constantFrom('.', '..', ''), fc.string({ unit: fc.constantFrom(...'09azAZ.-+ \n\0é') })).map(parts => parts.join(''))
  fc.assert(fc.property(fc.oneof(fc.string({ unit: 'binary' }), nearly), text => {
    const parsed = parseEventId(text)
    if (parsed === undefined) return
    assert.ok(text.startsWith(`${parsed.sessionId}.`))
    assert.equal(Number.parseInt(text.slice(25), 36), parsed.position)
    assert.ok(Number.isSafeInteger(parsed.position))
  }), { seed: seedOf(t), numRuns: 2000 })
})
