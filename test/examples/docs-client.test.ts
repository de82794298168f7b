import t, { type Test } from 'tap'
import { needsChromium } from '../support/browser.js'
import { block } from './docs.js'
import { createFolder, createPage, runToEnd, startApp } from './docs-run.js'

/** The server of the quick start, which serves the client, too. */
async function startServer (t: Test): Promise<string> {
  const save = createFolder(t)
  save('index.html', '')
  const code = block('README.md', 'server').replace('console.log', () => `${block('docs/client.md', 'serve-bundle').replace(/^import .*\n/, '')}\nconsole.log`)
  return await startApp(t, save('server.ts', code))
}

t.test('the page loads the client from the server of the quick start, sends and receives', needsChromium, async t => {
  const url = await startServer(t)
  const page = await createPage(t, url, block('docs/client.md', 'page'))
  await page.goto(url)
  await page.getByRole('textbox').fill('hello')
  await page.getByRole('button').click()
  await page.getByRole('listitem').getByText('hello').waitFor()
  t.equal(await page.getByRole('listitem').count(), 1)
})

t.test('the program for Node sends to the server of the quick start, receives from it, and exits', async t => {
  const url = await startServer(t)
  const output = await runToEnd(t, createFolder(t)('program.js', block('docs/client.md', 'program')), { CHAT_URL: `${url}/chat` })
  t.match(output, /received hello\n/)
  t.match(output, /\{ members: 1 \}\n/)
  t.match(output, /said \{ text: 'bye' \}\n/)
})
