import { readFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { bundleForBrowser } from '../support/bundle.js'

t.test('the bundle has at most 5698 bytes compressed, imports only the module for shared sessions and uses no API of Node', t => {
  const bundle = readFileSync(new URL('../../dist/client/bundle.js', import.meta.url))
  const size = gzipSync(bundle, { level: 9 }).length
  t.ok(size <= 5698, `${size} bytes`)
  // A page that shares its session loads this module.
  const code = bundle.toString().replace('import(`./shared-fetch.js`)', '')
  t.not(code.length, bundle.length)
  t.notMatch(code, /\bimport\b|\brequire\b|\bnode:|\bprocess\b|\bBuffer\b/)
  t.end()
})

t.test('the module for shared sessions has at most 5200 bytes compressed, imports nothing and uses no API of Node', t => {
  const code = readFileSync(new URL('../../dist/client/shared-fetch.js', import.meta.url))
  const size = gzipSync(code, { level: 9 }).length
  t.ok(size <= 5200, `${size} bytes`)
  t.notMatch(code.toString(), /\bimport\b|\brequire\b|\bnode:|\bprocess\b|\bBuffer\b/)
  t.end()
})

t.test('resumableFetch has at most 2048 bytes compressed, imports nothing and uses no API of Node', async t => {
  const code = await bundleForBrowser(new URL('../../dist/client/resumable-fetch.js', import.meta.url), { minify: true })
  const size = gzipSync(code, { level: 9 }).length
  t.ok(size <= 2048, `${size} bytes`)
  t.notMatch(code, /\bimport\b|\brequire\b|\bnode:|\bprocess\b|\bBuffer\b/)
})
