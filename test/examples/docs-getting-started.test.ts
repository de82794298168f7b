import t from 'tap'
import { needsChromium, openContext } from '../support/browser.js'
import { runScript } from '../support/child-process.js'
import { needsProgram } from '../support/needs-program.js'
import { block } from './docs.js'
import { createFolder, runCommand, startApp } from './docs-run.js'

/** Replaces the values in a text that differ from run to run. */
function normalize (text: string): string {
  return text.trim()
    .replaceAll(/[\w-]{24}/g, '<session id>')
    .replaceAll(/retry: \d+/g, 'retry: <ms>')
    .replaceAll(/"timestamp":"[^"]+"/g, '"timestamp":"<time>"')
}

t.test('the steps with curl print what the page shows', needsProgram('curl'), async t => {
  const url = await startApp(t, createFolder(t)('server.mjs', block('docs/getting-started.md', 'echo')))
  // `-s` turns off the progress meter, which curl prints at any time.
  const local = (command: string): string => command.replace('http://127.0.0.1:3000', url).replace('curl -N', 'curl -s -N')
  const stream = runCommand(t, local(block('docs/getting-started.md', 'open')))
  const [, sessionId = ''] = await stream.waitForOutput(/"sessionId":"([^"]+)".*\n\n/)
  const env = { SESSION_ID: sessionId }
  t.equal(normalize(stream.output().slice(stream.output().indexOf('retry:'))), normalize(block('docs/getting-started.md', 'welcome')))

  await runCommand(t, local(block('docs/getting-started.md', 'send')), env).waitForOutput(/\{"status":"Message sent successfully"\}/)
  const [echoed] = await stream.waitForOutput(/id: \S+\.1\ndata: .*\n\n/)
  t.equal(normalize(echoed), normalize(block('docs/getting-started.md', 'echoed')))

  await stream.kill('SIGINT')
  await runCommand(t, local(block('docs/getting-started.md', 'send')).replace('hello', 'meanwhile'), env).waitForOutput(/successfully/)
  const resumed = runCommand(t, local(block('docs/getting-started.md', 'resume')), { EVENT_ID: /id: (\S+)\n/.exec(echoed)?.[1] ?? '' })
  await resumed.waitForOutput(/"resumed":true[^]*meanwhile/)
  t.notMatch(resumed.output(), 'hello')
})

t.test('the poll counts votes, and its page starts again when the server has restarted', needsChromium, async t => {
  const save = createFolder(t)
  save('poll.html', block('docs/getting-started.md', 'page'))
  const server = runScript(t, save('poll.ts', block('docs/getting-started.md', 'poll')), { PORT: '0' })
  const [url] = await server.waitForOutput(/http:\/\/\S+/, 30_000)
  const context = await openContext(t)
  const pages = [await context.newPage(), await context.newPage()] as const
  for (const page of pages) {
    await page.goto(url)
    await page.getByText('0 yes, 0 no').waitFor()
  }
  await pages[0].getByRole('button', { name: 'Yes' }).click()
  for (const page of pages) await page.getByText('1 yes, 0 no').waitFor()
  await pages[1].getByRole('button', { name: 'No' }).click()
  for (const page of pages) await page.getByText('1 yes, 1 no').waitFor()

  await server.kill('SIGINT')
  await startApp(t, save('poll.ts', block('docs/getting-started.md', 'poll')), { PORT: new URL(url).port })
  for (const page of pages) {
    await page.getByText('0 yes, 0 no').waitFor()
    t.equal(await page.getByRole('button').count(), 2)
  }
})
