import { once } from 'node:events'
import t, { type Test } from 'tap'
import { runScript } from '../support/child-process.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { withTimeout } from '../support/wait.js'
import { block } from './docs.js'
import { createFolder } from './docs-run.js'

/** Runs the tests of a block with Node's test runner, next to the app of the page. */
async function runTests (t: Test, code: string, env: Record<string, string> = {}): Promise<void> {
  const save = createFolder(t)
  save('app.js', block('docs/testing.md', 'app'))
  const child = runScript(t, save('block.test.js', code), env, ['--test'])
  const [status] = await withTimeout(once(child.process, 'exit'), 'the end of the tests', 60_000) as [number]
  t.equal(status, 0, child.output())
  t.match(child.output(), /pass [1-9]/)
}

t.test('the tests without a socket pass', t => runTests(t, block('docs/testing.md', 'inject')))
t.test('the test of a batch passes', t => runTests(t, block('docs/testing.md', 'batch')))
t.test('the test with a socket passes', t => runTests(t, block('docs/testing.md', 'socket')))
t.test('the unit test passes', t => runTests(t, block('docs/testing.md', 'unit')))

t.test('the test of two nodes passes', needsRedis, async t => {
  await runTests(t, block('docs/testing.md', 'redis'), { REDIS_URL: `redis://127.0.0.1:${(await startRedis(t)).port}` })
})
