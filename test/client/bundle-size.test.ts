import { readFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import t from 'tap'

t.test('the bundle has at most 5120 bytes compressed, imports nothing and uses no API of Node', t => {
  const bundle = readFileSync(new URL('../../dist/client/bundle.js', import.meta.url))
  const size = gzipSync(bundle, { level: 9 }).length
  t.ok(size <= 5120, `${size} bytes`)
  t.notMatch(bundle.toString(), /\bimport\b|\brequire\b|\bnode:|\bprocess\b|\bBuffer\b/)
  t.end()
})
