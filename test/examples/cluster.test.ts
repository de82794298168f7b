import t, { type Test } from 'tap'
import { once } from 'node:events'
import { needsChromium, openContext } from '../support/browser.js'
import { joinChat, sendAndWait, sendMessage, shownMessages } from './support/chat-page.js'
import { findBrokenLinks } from './support/examples.js'
import { ask, generateAnswer, openTokens, QUESTION, waitForAnswer } from './support/tokens-page.js'
import { runScript } from '../support/child-process.js'
import { needsRedis } from '../support/redis-server.js'
import { waitUntil, withTimeout } from '../support/wait.js'

/** Starts the example on a free port, with its own Redis. */
async function startCluster (t: Test) {
  const cluster = runScript(t, 'example/cluster/index.js', { PORT: '0' })
  // SIGTERM lets the example stop its Redis and remove its files.
  t.teardown(() => cluster.kill('SIGTERM'))
  const [, url = ''] = await cluster.waitForOutput(/Chat: (\S+)\/chat\n/, 60_000)
  const findAll = (pattern: RegExp): string[] => [...cluster.output().matchAll(pattern)].map(([, group = '']) => group)
  return {
    url,
    /** The short ids of the sessions, in the order in which they were opened. */
    sessionIds: () => [...new Set(findAll(/^node \d serves the stream of session (\S+)$/gm))],
    /** The nodes that have served the stream of a session, in order. */
    nodesOf: (sessionId = '') => findAll(new RegExp(`^(node \\d) serves the stream of session ${sessionId}$`, 'gm')),
    /** The process ids of a node, in order of its starts. */
    processesOf: (node = '') => findAll(new RegExp(`^${node} started: process (\\d+)$`, 'gm')),
    /** The nodes that have served an answer, in order. */
    nodesThatServedAnswers: () => findAll(/^(node \d) serves an answer$/gm),
    /** The nodes that have started an answer, in order. */
    nodesThatStartedAnswers: () => findAll(/^(node \d) handled POST \/tokens\/answers$/gm),
    nodesThatHandled: () => new Set(findAll(/^(node \d) handled POST /gm)),
    waitForExit: (node = '') => cluster.waitForOutput(new RegExp(`^${node} exited \\(SIGKILL\\)`, 'm'))
  }
}

t.test('two pages receive each message once while the nodes of their streams are killed, one after the other', { ...needsChromium, ...needsRedis }, async t => {
  const { url, sessionIds, nodesOf, processesOf, nodesThatHandled, waitForExit } = await startCluster(t)
  const context = await openContext(t)
  const ann = await joinChat(t, context, url, 'Ann')
  t.strictSame(await findBrokenLinks(ann), [])
  const bob = await joinChat(t, context, url, 'Bob')
  const sent: string[] = []
  while (nodesThatHandled().size < 3 && sent.length < 20) {
    const text = `hello ${sent.length}`
    await sendAndWait(ann, text)
    sent.push(text)
  }
  t.equal(nodesThatHandled().size, 3, 'all nodes handle messages')
  for (const [index, sessionId] of sessionIds().entries()) {
    const before = `before ${index}`
    await sendAndWait(ann, before)
    await bob.getByText(before).waitFor()

    const node = nodesOf(sessionId).at(-1)
    process.kill(Number(processesOf(node).at(-1)), 'SIGKILL')
    await Promise.all([sendMessage(ann, `Ann ${index}`), sendMessage(bob, `Bob ${index}`), waitForExit(node)])
    await waitUntil(() => nodesOf(sessionId).at(-1) !== node, 'another node to serve the stream')
    for (const page of [ann, bob]) {
      for (const name of ['Ann', 'Bob']) await page.locator('#messages li:not(.pending)').getByText(`${name} ${index}`).waitFor()
      await page.locator('.pending').waitFor({ state: 'detached' })
    }
    sent.push(before, `Ann ${index}`, `Bob ${index}`)
    await waitUntil(() => processesOf(node).length === 2, 'the node to restart')
  }
  t.equal(sessionIds().length, 2, 'no client opened a new session')
  const messages = await shownMessages(ann)
  t.strictSame([...messages].sort(), sent.sort())
  t.strictSame(await shownMessages(bob), messages, 'in the same order')
  t.strictSame(await ann.locator('#people li:not(.away)').allTextContents(), ['Ann (you)', 'Bob'])

  await ann.reload()
  await ann.getByText('Ann (you)').waitFor()
  t.strictSame((await shownMessages(ann)).sort(), sent, 'Redis has each message once')
})

t.test('an answer continues while nodes that serve it are killed, stops from a second tab, and ends if its own node is killed', { ...needsChromium, ...needsRedis }, async t => {
  const { url, processesOf, waitForExit, nodesThatServedAnswers, nodesThatStartedAnswers } = await startCluster(t)
  const kill = async (node: string | undefined): Promise<void> => {
    process.kill(Number(processesOf(node).at(-1)), 'SIGKILL')
    await waitForExit(node)
  }
  const context = await openContext(t)
  const page = await openTokens(t, context, url)
  await ask(page, QUESTION)
  await waitForAnswer(page, 40)
  await waitUntil(() => nodesThatStartedAnswers().length === 1, 'the node of the producer')
  const [producer] = nodesThatStartedAnswers()
  while (nodesThatServedAnswers().at(-1) === producer) {
    const { length } = nodesThatServedAnswers()
    await page.reload()
    await waitUntil(() => nodesThatServedAnswers().length > length, 'a node to serve the answer')
  }
  const secondTab = await openTokens(t, context, url)
  await kill(nodesThatServedAnswers().find(node => node !== producer))
  for (const tab of [page, secondTab]) {
    await tab.locator('.finished').waitFor()
    t.equal(await tab.locator('.answer').textContent(), await generateAnswer(QUESTION), 'no token is missing or repeated')
  }

  await ask(page, QUESTION)
  await waitForAnswer(secondTab, 10)
  await secondTab.getByRole('button', { name: 'Stop' }).click()
  for (const tab of [page, secondTab]) await tab.locator('.stopped').waitFor()

  await ask(page, QUESTION)
  await waitForAnswer(page, 10)
  await waitUntil(() => nodesThatStartedAnswers().length === 3, 'the node of the producer')
  await kill(nodesThatStartedAnswers().at(-1))
  for (const tab of [page, secondTab]) await tab.locator('.lost').waitFor()
})

t.test('prints what to install if redis-server is missing', async t => {
  const cluster = runScript(t, 'example/cluster/index.js', { PORT: '0', PATH: '/nowhere' })
  const [code] = await withTimeout(once(cluster.process, 'exit'), 'its exit') as [number]
  t.equal(code, 1)
  t.match(cluster.output(), /^redis-server was not found\. Install it .*REDIS_URL=\S+\n$/)
})
