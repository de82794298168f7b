import t from 'tap'
import { runScript } from '../support/child-process.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { chooseSeed, createRandom } from '../support/random.js'
import { withTimeout } from '../support/wait.js'
import { block } from './docs.js'
import { createFolder } from './docs-run.js'

// Words, one every 5 ms.
const MODEL = `
export async function * answer (messages, signal) {
  for (let n = 0; n < 80 && !signal.aborted; n++) {
    yield n + ' '
    await new Promise(resolve => setTimeout(resolve, 5))
  }
}
`
const ANSWER = Array.from({ length: 80 }, (_, n) => `${n} `).join('')

type Ask = (baseURL: string, question: string, onText: (text: string) => void, signal?: AbortSignal) => Promise<void>

t.test('with the client of OpenAI, an answer is complete over four lost connections, and can be aborted', async t => {
  const save = createFolder(t)
  save('model.js', MODEL)
  const server = runScript(t, save('server.js', block('docs/ai/openai.md', 'server')), { PORT: '0' })
  const [url] = await server.waitForOutput(/http:\/\/[^\s/]+/, 30_000)
  const { ask } = await import(save('client.js', block('docs/ai/openai.md', 'client'))) as { ask: Ask }
  const random = createRandom(chooseSeed(t))
  const proxy = await startFaultProxy(t, Number(new URL(url).port), connection => connection < 4 ? { fault: connection % 2 === 0 ? 'cut' : 'reset', afterBytes: 900 + Math.floor(random() * 1500) } : undefined)
  let text = ''
  await withTimeout(ask(`${proxy.url}/v1`, 'Count!', part => { text += part }), 'the answer', 60_000)
  t.equal(text, ANSWER)
  t.equal(proxy.connections.filter(({ faulted }) => faulted).length, 4)

  const controller = new AbortController()
  let received = ''
  await withTimeout(ask(`${url}/v1`, 'Count!', part => {
    received += part
    controller.abort()
  }, controller.signal).catch((error: unknown) => { t.match(error, { name: /Abort|Error/ }) }), 'the end of the aborted answer')
  // The client still delivers what it has read before the abort.
  t.ok(ANSWER.startsWith(received))
  t.not(received, ANSWER)
})
