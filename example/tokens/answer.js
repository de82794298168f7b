import { setTimeout } from 'node:timers/promises'

/**
 * Simulates a language model: yields the tokens of an answer, one every 40 ms, until the signal aborts.
 * @param {string} question
 * @param {AbortSignal} signal
 */
export async function * answer (question, signal) {
  const text = `You asked: “${question}”. There is no language model behind this page. A generator on the server creates this text, one token every 40 milliseconds.

The server keeps the answer. This page reads it from the beginning, at its own speed. If the connection is lost for a moment, no part is lost and no part arrives twice. Each event has an id, and after a reconnect the stream continues with the event after the last one that your browser received.

Now reload the page, or open it in a second tab. Every page reads the answer from its beginning, and then shows the new tokens as they arrive.

A lost connection does not stop this answer. To stop it, press the Stop button, in any tab: it sends a request to the server.`
  for (const token of text.split(/(?<=\s)(?=\S)/)) {
    await setTimeout(40, undefined, { signal })
    yield token
  }
}
