// Compares the CPU time of the server for a batch with that for a single POST of the same size, in one run.
// Run it with `node bench/batch-parsing.js [rounds]`, after `npm run build`.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { Agent, request } from 'undici'

const SIZE = 1_000_000
const REQUESTS = 20
const rounds = Number(process.argv[2] ?? 7)

const fill = (part, separator = '') => {
  const parts = []
  for (let n = 0, length = 0; length < SIZE; n++) {
    const text = part(n)
    parts.push(text)
    length += text.length + separator.length
  }
  return parts.join(separator)
}
const deep = '['.repeat(SIZE / 2) + ']'.repeat(SIZE / 2)
const object = `{${fill(n => `"key ${n}":${n}`, ',')}}`
// The body of the single POST, if the batch is no JSON document.
const SPACES = `0${' '.repeat(SIZE)}`

/** Each with the body of the batch and that of the single POST. */
const CASES = {
  'line feeds': ['\n'.repeat(SIZE), SPACES],
  'line feeds, then an error': [`${'\n'.repeat(SIZE)}x`, SPACES],
  'spaces in the line': [`{${' '.repeat(SIZE)}"data":1}`, SPACES],
  'many keys in the data': [`{"data":${object}}`, object],
  'many keys in the line': [object, object],
  'repeated members': [`{${fill(() => '"id":"k"', ',')}}`, `{${fill(() => '"id":"k"', ',')}}`],
  'deep data': [`{"data":${deep}}`, deep],
  'a long string': [`{"data":"${'x'.repeat(SIZE)}"}`, `"${'x'.repeat(SIZE)}"`],
  'a long string with escapes': [`{"data":"${'\\"'.repeat(SIZE / 2)}"}`, `"${'\\"'.repeat(SIZE / 2)}"`],
  'many strings': [`{"data":[${fill(() => '"abcdefgh"', ',')}]}`, `[${fill(() => '"abcdefgh"', ',')}]`],
  'many numbers': [`{"data":[${fill(n => `${n}`, ',')}]}`, `[${fill(n => `${n}`, ',')}]`]
}

async function serve () {
  const { default: Fastify } = await import('fastify')
  const { default: sseSessions } = await import('../dist/index.js')
  const app = Fastify({ bodyLimit: SIZE * 2 })
  await app.register(sseSessions, { prefix: '/sse' })
  app.sseSessions.handle('message', () => 1)
  await app.listen({ port: 0 })
  process.on('message', () => { process.send({ cpu: process.cpuUsage() }) })
  process.send({ port: app.server.address().port })
}

async function compare () {
  const server = fork(new URL(import.meta.url), ['serve'])
  const [{ port }] = await once(server, 'message')
  const cpuTime = async () => {
    server.send('cpu')
    const [{ cpu: { user, system } }] = await once(server, 'message')
    return (user + system) / 1000
  }
  const url = `http://localhost:${port}/sse`
  const stream = await request(`${url}/downward`, { headers: { accept: 'text/event-stream' } })
  stream.body.resume()
  const dispatcher = new Agent({ connections: 1 })
  const measure = async (body, type) => {
    const before = await cpuTime()
    for (let n = 0; n < REQUESTS; n++) {
      const response = await request(`${url}/upward`, { method: 'POST', body, dispatcher, headers: { 'content-type': type, 'x-session-id': stream.headers['x-session-id'] } })
      await response.body.dump()
    }
    return (await cpuTime() - before) / REQUESTS
  }
  for (const [name, [batch, single]] of Object.entries(CASES)) {
    const [batchTimes, singleTimes] = [[], []]
    for (let n = 0; n < rounds; n++) {
      batchTimes.push(await measure(batch, 'application/x-ndjson'))
      singleTimes.push(await measure(single, 'application/json'))
    }
    const [batchTime, singleTime] = [batchTimes, singleTimes].map(times => Math.min(...times))
    console.log(`${name}: batch ${batchTime.toFixed(1)} ms, single POST ${singleTime.toFixed(1)} ms, ratio ${(batchTime / singleTime).toFixed(2)}`)
  }
  await dispatcher.destroy()
  server.kill()
  process.exit()
}

await (process.argv[2] === 'serve' ? serve() : compare())
