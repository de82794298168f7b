import { readUIMessageStream, type UIMessage, type UIMessageChunk } from 'ai'
import t from 'tap'
import { runScript } from '../support/child-process.js'
import { startFaultProxy } from '../support/fault-proxy.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import { block } from './docs.js'
import { createFolder } from './docs-run.js'

// A model that answers with words, one every 20 ms. It ends when its request is aborted.
const MODEL = `
import { simulateReadableStream } from 'ai'
import { MockLanguageModelV3 } from 'ai/test'
const words = Array.from({ length: 60 }, (_, n) => ({ type: 'text-delta', id: 't', delta: n + ' ' }))
const end = { type: 'finish', finishReason: { unified: 'stop' }, usage: { inputTokens: { total: 1 }, outputTokens: { total: 1 } } }
export const model = new MockLanguageModelV3({
  doStream: async ({ abortSignal }) => {
    abortSignal.addEventListener('abort', () => { console.log('the model was stopped') })
    const chunks = [{ type: 'text-start', id: 't' }, ...words, { type: 'text-end', id: 't' }, end]
    return { stream: simulateReadableStream({ chunkDelayInMs: 20, chunks }) }
  }
})
`

const ANSWER = Array.from({ length: 60 }, (_, n) => `${n} `).join('')
const QUESTION = { id: 'q', role: 'user', parts: [{ type: 'text', text: 'Count!' }] }

interface Chat {
  ask (message: object): Promise<ReadableStream<UIMessageChunk>>
  resume (): Promise<ReadableStream<UIMessageChunk> | null>
  stop (): Promise<Response>
}

/** Reads an answer to its end. `text` returns what has arrived so far. */
function read (stream: ReadableStream<UIMessageChunk> | null): { text: () => string, ended: Promise<void> } {
  if (stream === null) throw new Error('there is no answer')
  let message: UIMessage | undefined
  const text = (): string => (message?.parts ?? []).map(part => part.type === 'text' ? part.text : '').join('')
  const iterate = async (): Promise<void> => { for await (message of readUIMessageStream({ stream, onError: () => {} })) ; }
  return { text, ended: withTimeout(iterate().catch(() => {}), 'the end of an answer', 20_000) }
}

t.test('with the transport of the AI SDK, an answer survives a lost connection, appears in two tabs, and is stopped from another tab', async t => {
  const save = createFolder(t)
  save('model.js', MODEL)
  const server = runScript(t, save('server.js', block('docs/ai/ai-sdk.md', 'server')), { PORT: '0' })
  const [url] = await server.waitForOutput(/http:\/\/[^\s/]+/, 30_000)
  const { openChat } = await import(save('client.js', block('docs/ai/ai-sdk.md', 'client'))) as { openChat: (chatId: string, api: string) => Chat }
  const proxy = await startFaultProxy(t, Number(new URL(url).port))
  const chat = openChat('1', `${proxy.url}/api/chat`)
  t.equal(await chat.resume(), null)
  const first = read(await chat.ask(QUESTION))
  await waitUntil(() => first.text().includes('5 '), 'the start of the answer')
  proxy.breakConnection('reset')
  await first.ended
  t.not(first.text(), ANSWER)
  const tabs = [read(await chat.resume()), read(await openChat('1', `${url}/api/chat`).resume())]
  for (const { text, ended } of tabs) {
    await ended
    t.equal(text(), ANSWER)
  }
  t.equal(await chat.resume(), null, 'the answer has ended')

  const other = openChat('2', `${url}/api/chat`)
  const asked = read(await other.ask(QUESTION))
  const resumed = read(await other.resume())
  await waitUntil(() => resumed.text().includes('5 '), 'the start of the answer')
  t.equal((await openChat('2', `${url}/api/chat`).stop()).status, 204)
  await Promise.all([asked.ended, resumed.ended])
  await server.waitForOutput(/the model was stopped/)
  t.equal(asked.text(), resumed.text())
  t.not(asked.text(), ANSWER)
  t.equal(await other.resume(), null)
})
