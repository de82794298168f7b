import t from 'tap'
import { needsChromium, openContext } from '../support/browser.js'
import { startFaultProxy, type Fault } from '../support/fault-proxy.js'
import { waitUntil } from '../support/wait.js'
import { serveRuns } from './support/serve-runs.js'

t.test('Chromium\'s EventSource reads a run from the beginning and from a cursor over lost connections, and stops after the end', needsChromium, async t => {
  const total = 1000
  const statuses: number[] = []
  const { port, runs, feed } = await serveRuns(t, {
    plugin: { retry: 1 },
    serve: {
      beforeRegister: app => {
        app.get('/', async (_request, reply) => reply.type('text/html').header('connection', 'close').send('<!doctype html><link rel="icon" href="data:,">'))
        app.addHook('onResponse', async ({ url }, { statusCode }) => { if (url.startsWith('/run')) statuses.push(statusCode) })
      }
    }
  })
  const run = await runs.start('a', {}, feed.producer)
  const faults: Fault[] = ['cut', 'reset']
  // The first connections load the page.
  let isArmed = false
  const proxy = await startFaultProxy(t, port, connection => isArmed && connection < 12 ? { fault: faults[connection % 2] ?? 'cut', afterBytes: 3000 + 700 * connection } : undefined)
  const page = await (await openContext(t)).newPage()
  await page.goto(proxy.url)
  isArmed = true
  feed.add(...Array.from({ length: total / 2 }, (_, n) => n))
  await page.evaluate(`
    window.readers = ['/run', '/run?from=${run.id}.${(100).toString(36)}'].map(url => {
      const reader = { received: [], end: '', source: new EventSource(url) }
      reader.source.onmessage = ({ data }) => reader.received.push(Number(data))
      reader.source.addEventListener('end', ({ data }) => { reader.end = data })
      return reader
    })
  `)
  const read = async (): Promise<Array<{ received: number[], end: string, readyState: number }>> => await page.evaluate('readers.map(({ received, end, source: { readyState } }) => ({ received, end, readyState }))')
  await waitUntil(async () => (await read()).every(({ received }) => received.at(-1) === total / 2 - 1), 'the first half', 30_000)
  feed.add(...Array.from({ length: total / 2 }, (_, n) => n + total / 2))
  feed.end()
  await waitUntil(async () => (await read()).every(({ readyState }) => readyState === 2), 'the EventSources to stop', 30_000)
  const numbers = Array.from({ length: total }, (_, n) => n)
  const readers = await read()
  t.strictSame(readers.map(({ received }) => received), [numbers, numbers.slice(100)])
  t.strictSame(readers.map(({ end }) => end), ['{"status":"finished"}', '{"status":"finished"}'])
  t.ok(statuses.filter(status => status === 200).length > 4, 'connections were lost')
  t.equal(statuses.filter(status => status === 204).length, 2)
})
