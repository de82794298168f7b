import t, { type Test } from 'tap'
import { once } from 'node:events'
import { needsChromium } from '../support/browser.js'
import { enter, openContext, said, say, tell } from './support/chat-page.js'
import { runScript } from '../support/child.js'
import { needsRedis } from '../support/redis.js'
import { until, within } from '../support/wait.js'

/** Starts the example on a free port, with a Redis of its own. */
async function startCluster (t: Test) {
  const cluster = runScript(t, 'example/cluster/index.js', { PORT: '0' })
  // So that nothing of its Redis is left.
  t.teardown(() => cluster.kill('SIGTERM'))
  const [, url = ''] = await cluster.printed(/Chat: (\S+)\/chat\n/, 60_000)
  const all = (pattern: RegExp): string[] => [...cluster.output().matchAll(pattern)].map(([, found = '']) => found)
  return {
    url,
    /** The sessions, in order of their opening. */
    labels: () => [...new Set(all(/^node \d has the stream of (\S+)$/gm))],
    /** The nodes that have had a session's stream, in order. */
    nodesOf: (label = '') => all(new RegExp(`^(node \\d) has the stream of ${label}$`, 'gm')),
    /** The processes that a node has been, in order. */
    processesOf: (node = '') => all(new RegExp(`^${node} is process (\\d+)$`, 'gm')),
    nodesThatHandled: () => new Set(all(/^(node \d) has handled /gm)),
    hasEnded: (node = '') => cluster.printed(new RegExp(`^${node} has ended \\(SIGKILL\\)`, 'm'))
  }
}

t.test('the node of each of two who chat is killed, one after the other: both go on, and each sees all that was said, once', { ...needsChromium, ...needsRedis }, async t => {
  const { url, labels, nodesOf, processesOf, nodesThatHandled, hasEnded } = await startCluster(t)
  const context = await openContext(t)
  const ann = await enter(t, context, url, 'Ann')
  const bob = await enter(t, context, url, 'Bob')
  const wanted: string[] = []
  while (nodesThatHandled().size < 3 && wanted.length < 20) {
    const text = `hello ${wanted.length}`
    await tell(ann, text)
    wanted.push(text)
  }
  t.equal(nodesThatHandled().size, 3, 'messages up go to all nodes')
  for (const [index, label] of labels().entries()) {
    const before = `before ${index}`
    await tell(ann, before)
    await bob.getByText(before).waitFor()

    const node = nodesOf(label).at(-1)
    process.kill(Number(processesOf(node).at(-1)), 'SIGKILL')
    await Promise.all([say(ann, `Ann ${index}`), say(bob, `Bob ${index}`), hasEnded(node)])
    await until(() => nodesOf(label).at(-1) !== node, 'another node to have the stream')
    for (const page of [ann, bob]) {
      for (const name of ['Ann', 'Bob']) await page.locator('#messages li:not(.pending)').getByText(`${name} ${index}`).waitFor()
      await page.locator('.pending').waitFor({ state: 'detached' })
    }
    wanted.push(before, `Ann ${index}`, `Bob ${index}`)
    await until(() => processesOf(node).length === 2, 'the node to be there again')
  }
  t.equal(labels().length, 2, 'no session was begun anew')
  const messages = await said(ann)
  t.strictSame([...messages].sort(), wanted.sort())
  t.strictSame(await said(bob), messages, 'in one order')
  t.strictSame(await ann.locator('#people li:not(.away)').allTextContents(), ['Ann (you)', 'Bob'])

  await ann.reload()
  await ann.getByText('Ann (you)').waitFor()
  t.strictSame((await said(ann)).sort(), wanted, 'the book has them, too')
})

t.test('without a redis-server it says what to install', async t => {
  const cluster = runScript(t, 'example/cluster/index.js', { PORT: '0', PATH: '/nowhere' })
  const [code] = await within(once(cluster.process, 'exit'), 'its end') as [number]
  t.equal(code, 1)
  t.match(cluster.output(), /^There is no redis-server\. Install it .*REDIS_URL=\S+\n$/)
})
