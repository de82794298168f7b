import { readFileSync } from 'node:fs'
import t from 'tap'
import { needsChromium, openContext } from '../support/browser.js'
import { openStream, postMessage } from '../support/http-client.js'
import { block } from './docs.js'
import { createFolder, runCommand, startApp } from './docs-run.js'

t.test('the first command starts the examples; the second runs the tests', async t => {
  t.equal(block('README.md', 'commands'), 'npm ci && npm start\nnpm ci && npm test\n')
  // Without its build step, which would change files that other tests use.
  await runCommand(t, 'npm start --ignore-scripts', { PORT: '0' }).waitForOutput(/Examples: http:\/\/127\.0\.0\.1:\d+/, 60_000)
})

t.test('the README has at most 150 lines', async t => {
  t.ok(readFileSync('README.md', 'utf8').trimEnd().split('\n').length <= 150)
})

t.test('the quick start serves its page, which sends and receives in two tabs', needsChromium, async t => {
  const save = createFolder(t)
  save('index.html', block('README.md', 'page'))
  const url = await startApp(t, save('server.ts', block('README.md', 'server')))
  const context = await openContext(t)
  const [page, other] = [await context.newPage(), await context.newPage()]
  for (const tab of [page, other]) {
    await tab.goto(url)
    await tab.getByText('Welcome!').waitFor()
  }
  await page.getByRole('textbox').fill('hello')
  await page.getByRole('button').click()
  for (const tab of [page, other]) {
    await tab.getByRole('listitem').getByText('hello').waitFor()
    t.equal(await tab.getByRole('listitem').count(), 1)
  }
})

t.test('the quick start responds to a message, and rejects data that does not match its schema', async t => {
  const save = createFolder(t)
  save('index.html', '')
  const url = await startApp(t, save('server.ts', block('README.md', 'server')))
  const { sessionId } = await openStream(t, url, { path: '/chat/downward' })
  t.match(await postMessage(url, sessionId, { text: 'hi' }, { path: '/chat/upward', event: 'say' }), { status: 200, body: { members: 1 } })
  t.match(await postMessage(url, sessionId, {}, { path: '/chat/upward', event: 'say' }), { status: 400, body: { code: 'FST_ERR_VALIDATION' } })
})
