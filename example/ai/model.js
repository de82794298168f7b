import { simulateReadableStream } from 'ai'
import { MockLanguageModelV3 } from 'ai/test'

/** Milliseconds between two tokens. */
const DELAY = 50

/**
 * Returns the tokens of an answer.
 * @param {string} question
 */
export function createTokens (question) {
  const text = `You asked: “${question}”. The model behind this page is the mock model of the AI SDK: it needs no key and no network, and answers with this text, one token every ${DELAY} milliseconds. Everything else is as with a real model.

The page uses useChat of the AI SDK. The server runs the model in a run of fastify-sse-sessions. The answer belongs to the run, not to the connection of this page. So it continues when you reload the page, when your connection is lost, and when you close the page.

Now open this page in a second tab: copy its address, which contains the id of the chat. Both tabs show the same answer, from its beginning. Each of them can stop it, and then the model really stops: the server aborts its request. Resuming and stopping work together.

When the answer has ended, the server stores it with the other messages of the chat. A page that is loaded later gets it from there.`
  return text.split(/(?<=\s)(?=\S)/)
}

/** A model that answers with a fixed text about this example. */
export const model = new MockLanguageModelV3({
  doStream: async ({ prompt }) => {
    const question = prompt.at(-1)?.content
    const part = Array.isArray(question) ? question.find(({ type }) => type === 'text') : undefined
    const tokens = createTokens(part?.type === 'text' ? part.text : '')
    return {
      stream: simulateReadableStream({
        initialDelayInMs: DELAY,
        chunkDelayInMs: DELAY,
        chunks: [
          { type: 'text-start', id: 'text' },
          ...tokens.map(delta => ({ type: /** @type {const} */ ('text-delta'), id: 'text', delta })),
          { type: 'text-end', id: 'text' },
          { type: 'finish', finishReason: { unified: 'stop', raw: undefined }, usage: { inputTokens: { total: 1, noCache: 1, cacheRead: 0, cacheWrite: 0 }, outputTokens: { total: tokens.length, text: tokens.length, reasoning: 0 } } }
        ]
      })
    }
  }
})
