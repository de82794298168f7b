import t from 'tap'
import { needsChromium, openContext } from '../support/browser.js'
import { runScript } from '../support/child-process.js'
import { saveScreenshots, startExamples } from './support/examples.js'
import { openStream, postMessage } from '../support/http-client.js'

t.test('the echo server prints its address and responds as in the tutorial', async t => {
  const { url } = await startExamples(t)
  t.match(url, /^http:\/\/127\.0\.0\.1:\d+$/)
  const stream = await openStream(t, url)
  t.match(stream.events[0]?.data, { text: 'Welcome to the chat!', timestamp: String })
  const response = await postMessage(url, stream.sessionId, { text: 'hi' })
  t.equal(response.status, 201)
  const { data } = await stream.waitFor(({ event }) => event === 'message')
  t.match(data, { text: 'Data received: hi' })
})

t.test('the echo server accepts requests of any origin, as the server of the tutorial does', async t => {
  const { url } = await startExamples(t)
  const origin = 'http://other.example'
  const stream = await openStream(t, url, { headers: { origin } })
  t.equal(stream.headers['access-control-allow-origin'], '*')
  const preflight = await fetch(`${url}/upward`, { method: 'OPTIONS', headers: { origin, 'access-control-request-method': 'POST', 'access-control-request-headers': 'x-session-id' } })
  t.equal(preflight.status, 204)
  t.equal(preflight.headers.get('access-control-allow-origin'), '*')
})

t.test('the echo server exits on SIGTERM while a stream is open', async t => {
  const { server, url } = await startExamples(t)
  const stream = await openStream(t, url)
  await server.kill('SIGTERM')
  await stream.ended
  t.equal(server.process.exitCode, 0)
  t.match(stream.text(), /\nretry: \d+\n\n$/)
})

t.test('the terminal client sends typed lines and prints received events', async t => {
  const { url } = await startExamples(t)
  const client = runScript(t, 'example/echo/cli.js', { URL: url })
  await client.waitForOutput(/Welcome to the chat!/)
  client.process.stdin.write('from the terminal\n')
  await client.waitForOutput(/Data received: from the terminal/)
  client.process.stdin.end()
  t.ok(await client.waitForOutput(/> $/))
})

t.test('the page shows session, state and messages, and opens a new session after a server restart', needsChromium, async t => {
  const { server, url, port } = await startExamples(t)
  const page = await (await openContext(t)).newPage()
  const pageErrors: unknown[] = []
  page.on('pageerror', error => { pageErrors.push(error) })
  await page.goto(url)
  const state = page.locator('#state')
  const received = page.locator('li.down')
  await state.and(page.getByText('open', { exact: true })).waitFor()
  const sessionId = await page.locator('#session').textContent()
  t.match(sessionId, /^[\w-]{24}$/)
  await page.getByPlaceholder('Write a message').fill('from <the> page')
  await page.getByRole('button', { name: 'Send' }).click()
  await page.getByText('Data received: from <the> page').waitFor()
  t.equal(await received.count(), 2)
  await saveScreenshots(page, 'echo')

  await server.kill()
  await state.and(page.getByText('disconnected', { exact: true })).waitFor()
  t.equal(await page.getByRole('button', { name: 'Send' }).isDisabled(), true)
  await startExamples(t, port)
  await state.and(page.getByText('open', { exact: true })).waitFor()
  await page.getByText('The server no longer has the previous session.').waitFor()
  t.not(await page.locator('#session').textContent(), sessionId)
  t.strictSame(pageErrors, [])
})
