import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { eventSources } from '../support/event-sources.js'
import { startFaultProxy, type Fault } from '../support/fault-proxy.js'
import { needsProgram } from '../support/needs-program.js'
import { openRawClient, PADDING } from '../support/raw-client.js'
import { deferred, waitUntil, withTimeout } from '../support/wait.js'
import { dataOf, follow, type RunResponse } from './support/run-client.js'
import { serveRuns } from './support/serve-runs.js'

const numbers = (count: number, from = 0): string[] => Array.from({ length: count - from }, (_, n) => String(n + from))

t.test('many readers start at the beginning, at a cursor or at the newest event, while the run goes on', async t => {
  const { runUrl, feed } = await serveRuns(t)
  const first = await follow(t, runUrl, { method: 'POST' })
  feed.add(0, 1, 2, 3, 4)
  await first.waitFor('4')
  const cursor = first.events[1]?.id ?? ''
  const readers = await Promise.all(Array.from({ length: 30 }, async (_, n): Promise<[from: number, RunResponse]> => {
    if (n % 4 === 0) return [0, await follow(t, runUrl)]
    if (n % 4 === 1) return [2, await follow(t, runUrl, { headers: { 'last-event-id': cursor } })]
    if (n % 4 === 2) return [2, await follow(t, `${runUrl}?from=${cursor}`)]
    return [5, await follow(t, `${runUrl}?from=now`)]
  }))
  feed.add(5, 6)
  await first.waitFor('6')
  const late = await follow(t, `${runUrl}?from=now`, { headers: { 'last-event-id': cursor } })
  feed.add(7)
  feed.end()
  for (const [from, response] of [...readers, [2, late], [0, first]] as typeof readers) {
    t.equal(await response.isComplete, true)
    t.strictSame(dataOf(response), numbers(8, from))
    t.strictSame(response.events.at(-1), first.events.at(-1))
  }
})

for (const [name, open] of eventSources) {
  t.test(`an unmodified EventSource (${name}) resumes over lost connections and stops after the end`, async t => {
    const { port, feed } = await serveRuns(t, { plugin: { retry: 1 } })
    const proxy = await startFaultProxy(t, port, connection => connection < 4 ? { fault: connection % 2 === 0 ? 'cut' : 'reset', afterBytes: 700 + 150 * connection } : undefined)
    await follow(t, `http://127.0.0.1:${port}/run`, { method: 'POST' })
    const source = open(t, `${proxy.url}/run`)
    const received: string[] = []
    const ended = deferred<string>()
    source.addEventListener('message', ({ data }) => { received.push(String(data)) })
    source.addEventListener('end', ({ data }) => { ended.resolve(String(data)) })
    for (const n of numbers(100)) {
      feed.add(Number(n))
      await waitUntil(() => received.length > Number(n), `the number ${n}`)
    }
    feed.end()
    t.equal(await withTimeout(ended.promise, 'the end'), '{"status":"finished"}')
    t.strictSame(received, numbers(100))
    // The response to the reconnect after the end is 204.
    await waitUntil(() => source.readyState === 2, 'the EventSource to stop')
    t.equal(proxy.connections.length >= 5, true)
  })
}

t.test('curl reads a run from the beginning and from a cursor', needsProgram('curl'), async t => {
  const { runUrl, feed } = await serveRuns(t)
  const curl = async (...args: string[]): Promise<string[]> => {
    const { stdout } = await promisify(execFile)('curl', ['--silent', '--show-error', '--no-buffer', '--max-time', '10', ...args, runUrl])
    return [...stdout.matchAll(/^data: (.*)$/gm)].map(([, data = '']) => data)
  }
  const post = curl('--request', 'POST')
  await waitUntil(() => feed.startCount() === 1, 'the start')
  feed.add(0, 1, 2)
  const response = await follow(t, runUrl)
  await response.waitFor('2')
  const [all, rest] = [curl(), curl('--header', `Last-Event-ID: ${response.events[1]?.id ?? ''}`)]
  feed.add(3)
  feed.end()
  const end = '{"status":"finished"}'
  t.strictSame(await Promise.all([post, all, rest]), [[...numbers(4), end], [...numbers(4), end], [...numbers(4, 2), end]])
})

/** Follows a run over as many connections as it takes. */
async function followToEnd (t: Test, url: string): Promise<string[]> {
  const received: string[] = []
  let lastEventId = ''
  for (let isComplete = false; !isComplete;) {
    try {
      const response = await follow(t, url, { headers: { 'last-event-id': lastEventId } })
      if (response.status === 204) break
      isComplete = await response.isComplete
      received.push(...response.events.map(({ data }) => data))
      lastEventId = response.lastEventId() || lastEventId
    } catch {}
  }
  return received
}

t.test('whatever the byte at which a connection is lost, a reader receives every event once', async t => {
  const { port, runs } = await serveRuns(t, { reply: { finalFrame: () => 'event: end\ndata: 1\n\ndata: [DONE]\n\n' } })
  await runs.start('a', {}, () => Array.from({ length: 8 }, (_, n) => n))
  const sizes = Array.from({ length: 75 }, (_, n) => 100 + 13 * n)
  await Promise.all(sizes.map(async afterBytes => {
    const faults: Fault[] = ['cut', 'reset']
    const proxy = await startFaultProxy(t, port, connection => connection < 3 ? { fault: faults[afterBytes % 2] ?? 'cut', afterBytes: afterBytes + connection } : undefined)
    const received = await followToEnd(t, `${proxy.url}/run`)
    // The two events of the end have one id, so the first one of them can arrive twice.
    t.strictSame(received.filter((data, index) => data !== received[index + 1]), [...numbers(8), '1', '[DONE]'], `after ${afterBytes} bytes`)
  }))
})

t.test('a reader that does not read neither stops the producer nor other readers, and gets a gap', async t => {
  const { port, runUrl, runs, feed } = await serveRuns(t, { plugin: { runLog: { entries: 20, bytes: 4_000_000 } } })
  await runs.start('a', {}, feed.producer)
  const slow = openRawClient(t, port, { stalled: true, request: 'GET /run HTTP/1.1\r\nHost: localhost\r\n\r\n' })
  const fast = await follow(t, runUrl)
  await waitUntil(() => fast.text() !== '', 'the start of the response')
  for (let n = 0; n < 300; n++) {
    feed.add({ n, padding: PADDING })
    await waitUntil(() => fast.events.length > n, `the event ${n}`)
  }
  feed.end()
  await fast.isComplete
  t.equal(dataOf(fast).length, 300)
  slow.read()
  await waitUntil(() => slow.rawText().endsWith('\r\n0\r\n\r\n'), 'the end of the slow response')
  const received = slow.numbers()
  t.ok(/event: gap\n(id: .*\n)?data: .*"reason":"count"/.test(slow.text()))
  t.strictSame(received.slice(-20), Array.from({ length: 20 }, (_, n) => n + 280))
  t.ok(received.length < 300)
  t.strictSame(received, [...new Set(received)].sort((a, b) => a - b))
})

t.test('readers receive everything from a producer that never waits, if their connections accept it', async t => {
  const { runUrl, runs } = await serveRuns(t, { plugin: { runLog: { entries: 500 } } })
  const proceed = deferred()
  await runs.start('a', {}, async function * () {
    await proceed.promise
    yield * Array.from({ length: 5000 }, (_, n) => n)
  })
  const readers = await Promise.all([follow(t, runUrl), follow(t, runUrl)])
  proceed.resolve()
  for (const reader of readers) {
    t.equal(await reader.isComplete, true)
    t.strictSame(dataOf(reader), numbers(5000))
  }
})
