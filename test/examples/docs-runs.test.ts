import type { EventSource } from 'eventsource'
import t from 'tap'
import { waitUntil } from '../support/wait.js'
import { dataOf, follow } from '../runs/support/run-client.js'
import { block } from './docs.js'
import { runScript } from '../support/child-process.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { createFolder, startApp } from './docs-run.js'
import { runPageScript } from './support/page-script.js'

t.test('the routes start, follow and stop a run, and the page reads it to its end', async t => {
  const url = await startApp(t, createFolder(t)('routes.ts', block('docs/runs.md', 'routes')))
  t.equal((await fetch(`${url}/counts/1`)).status, 404)
  const post = await follow(t, `${url}/counts/1`, { method: 'POST', body: { last: 4 } })
  const sources: EventSource[] = []
  const { printed } = runPageScript(t, url, block('docs/runs.md', 'page'), source => { sources.push(source) })
  await waitUntil(() => sources[0]?.readyState === 2, 'the end of the run')
  t.strictSame(printed, [[1], [2], [3], [4], ['finished']])
  t.equal(await post.isComplete, true)
  const long = await follow(t, `${url}/counts/2`, { method: 'POST', body: { last: 1e6 } })
  await long.waitFor('{"n":1}')
  t.equal((await fetch(`${url}/counts/2`, { method: 'DELETE' })).status, 204)
  await long.waitFor('{"status":"stopped","reason":"user"}')
})

t.test('a page receives the parts of a run that its session follows', async t => {
  const url = await startApp(t, createFolder(t)('follow.ts', block('docs/runs.md', 'follow')))
  const { printed } = runPageScript(t, url, block('docs/runs.md', 'follow-page'), source => {
    source.addEventListener('welcome', ({ data }) => {
      const { sessionId } = JSON.parse(String(data)) as { sessionId: string }
      fetch(`${url}/upward/follow`, { method: 'POST', headers: { 'content-type': 'application/json', 'x-session-id': sessionId }, body: '{"name":"count"}' })
    })
  })
  await waitUntil(() => printed.length === 4, 'the end of the run')
  t.strictSame(printed.map(values => values.filter((_, index) => index !== 1)), [['count', 1], ['count', 2], ['count', 3], ['count has ended: finished']])
})

t.test('the response has the documented form', async t => {
  const url = await startApp(t, createFolder(t)('routes.ts', block('docs/runs.md', 'routes')))
  const response = await follow(t, `${url}/counts/1`, { method: 'POST', body: { last: 1 } })
  await response.isComplete
  const normalize = (text: string): string => text.replace(/^retry: \d+/, 'retry: 2000').replaceAll(/^id: [\w-]{24}/gm, 'id: RUN')
  t.equal(normalize(response.text()), normalize(block('docs/runs.md', 'response')))
})

t.test('the resumable route starts, repeats, follows and stops runs', async t => {
  const url = await startApp(t, createFolder(t)('resumable.ts', block('docs/runs.md', 'resumable')))
  const ask = { method: 'POST', headers: { 'idempotency-key': 'a' }, body: { question: 'why' } }
  const post = await follow(t, `${url}/ask`, ask)
  await post.isComplete
  const words = ['You', 'have', 'asked:', 'why'].map(word => JSON.stringify({ word }))
  t.strictSame(dataOf(post), words)
  const location = `${url}${post.headers.get('location') ?? ''}`
  for (const response of [await follow(t, location), await follow(t, `${url}/ask`, ask)]) {
    await response.isComplete
    t.strictSame(dataOf(response), words)
  }
  t.equal((await fetch(location, { method: 'DELETE' })).status, 204)
})

for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
  t.test(`a restartable producer continues in another process when its own gets ${signal}`, needsRedis, async t => {
    const file = createFolder(t)('restartable.ts', block('docs/runs.md', 'restartable'))
    const env = { PORT: '0', REDIS_URL: `redis://127.0.0.1:${(await startRedis(t)).port}` }
    const processes = [runScript(t, file, env), runScript(t, file, env)] as const
    const [[one], [other]] = await Promise.all([processes[0].waitForOutput(/http:\/\/\S+/, 30_000), processes[1].waitForOutput(/http:\/\/\S+/, 30_000)])
    const first = await follow(t, `${one}/count`, { method: 'POST', body: { last: 40 } })
    const second = await follow(t, `${other}${first.headers.get('location') ?? ''}`)
    await second.waitFor('{"n":3}')
    await processes[0].kill(signal)
    t.equal(await second.isComplete, true)
    t.strictSame(dataOf(second), Array.from({ length: 40 }, (_, index) => `{"n":${index + 1}}`))
    t.equal(second.events.at(-1)?.data, '{"status":"finished"}')
  })
}
