import t from 'tap'
import { launchChromium, needsChromium } from '../support/browser.js'
import { runScript } from '../support/child.js'
import { keepPictures, startExamples } from './support/examples.js'
import { openStream, post } from '../support/stream.js'

t.test('the echo server prints its address, and answers as the tutorial says', async t => {
  const { url } = await startExamples(t)
  t.match(url, /^http:\/\/127\.0\.0\.1:\d+$/)
  const stream = await openStream(t, url)
  t.match(stream.events[0]?.data, { text: 'Welcome to the chat!', timestamp: String })
  const answer = await post(url, stream.sessionId, { text: 'hi' })
  t.equal(answer.status, 201)
  const { data } = await stream.waitFor(({ event }) => event === 'message')
  t.match(data, { text: 'Data received: hi' })
})

t.test('the echo server ends on SIGTERM while a stream is open', async t => {
  const { server, url } = await startExamples(t)
  const stream = await openStream(t, url)
  await server.kill('SIGTERM')
  await stream.ended
  t.equal(server.process.exitCode, 0)
  t.match(stream.raw(), /\nretry: \d+\n\n$/)
})

t.test('the terminal client sends what is typed and prints what comes', async t => {
  const { url } = await startExamples(t)
  const client = runScript(t, 'example/echo/cli.js', { URL: url })
  await client.printed(/Welcome to the chat!/)
  client.process.stdin.write('from the terminal\n')
  await client.printed(/Data received: from the terminal/)
  client.process.stdin.end()
  t.ok(await client.printed(/> $/))
})

t.test('the page shows the session, its state and the messages, and comes back to a restarted server', needsChromium, async t => {
  const { server, url, port } = await startExamples(t)
  const browser = await launchChromium(t)
  const page = await browser.newPage()
  const problems: unknown[] = []
  page.on('pageerror', problem => { problems.push(problem) })
  await page.goto(url)
  const state = page.locator('#state')
  const down = page.locator('li.down')
  await state.and(page.getByText('connected', { exact: true })).waitFor()
  const sessionId = await page.locator('#session').textContent()
  t.match(sessionId, /^[\w-]{24}$/)
  await page.getByPlaceholder('Write a message').fill('from <the> page')
  await page.getByRole('button', { name: 'Send' }).click()
  await page.getByText('Data received: from <the> page').waitFor()
  t.equal(await down.count(), 2)
  await keepPictures(page, 'echo')

  await server.kill()
  await state.and(page.getByText('connecting', { exact: true })).waitFor()
  t.equal(await page.getByRole('button', { name: 'Send' }).isDisabled(), true)
  await startExamples(t, port)
  await state.and(page.getByText('connected', { exact: true })).waitFor()
  await page.getByText('the server has started anew').waitFor()
  t.not(await page.locator('#session').textContent(), sessionId)
  t.strictSame(problems, [])
})
