import t from 'tap'
import ts from 'typescript'
import { needsChromium } from '../support/browser.js'
import { runScript } from '../support/child-process.js'
import { withTimeout } from '../support/wait.js'
import { block } from './docs.js'
import { createFolder, createPage, startApp } from './docs-run.js'

const after = block('docs/migrating.md', 'after')

t.test('the app after a migration works with the package\'s client', async t => {
  const save = createFolder(t)
  const url = await startApp(t, save('after.js', after))
  const client = runScript(t, save('client.js', block('docs/migrating.md', 'client-after')), { APP_URL: url })
  await client.waitForOutput(/\{ said: 'hello' \}/)
  await client.waitForOutput(/said: hello/)
})

t.test('the app after a migration works with an EventSource', needsChromium, async t => {
  const url = await startApp(t, createFolder(t)('after.js', after))
  const page = await createPage(t, url, '<script type="module" src="/page.js"></script>', `${block('docs/migrating.md', 'eventsource-after')}
    source.addEventListener('welcome', async () => { console.log(JSON.stringify(await say('hi'))) })
  `)
  const lines: string[] = []
  const both = new Promise<void>(resolve => {
    page.on('console', message => {
      lines.push(message.text())
      if (lines.length === 2) resolve()
    })
  })
  await page.goto(url)
  await withTimeout(both, 'the response and the event')
  t.strictSame(lines.sort(), ['said: hi', '{"said":"hi"}'])
})

// The packages that the apps come from are not installed, so only the syntax is checked.
t.test('the apps before a migration are valid JavaScript', async t => {
  const before = [
    block('docs/migrating.md', 'socketio-before'),
    block('docs/migrating.md', 'socketio-client-before'),
    block('docs/migrating.md', 'ws-before'),
    block('docs/migrating.md', 'ws-client-before'),
    block('docs/migrating.md', 'better-sse-before'),
    block('docs/migrating.md', 'fastify-sse-before'),
    block('docs/migrating.md', 'signalr-client-before')
  ]
  for (const code of before) {
    const { diagnostics } = ts.transpileModule(code, { reportDiagnostics: true, compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2023 } })
    t.strictSame(diagnostics?.map(({ messageText }) => messageText), [])
  }
})

t.test('the hub and its client use the same names', async t => {
  const hub = block('docs/migrating.md', 'signalr-before')
  t.match(hub, /Task<object> Say\(/)
  t.match(block('docs/migrating.md', 'signalr-client-before'), /invoke\('Say'/)
})
