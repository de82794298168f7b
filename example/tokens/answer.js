import { setTimeout } from 'node:timers/promises'

/**
 * Stands for a language model: tokens of an answer, one after the other, until the signal says that nobody wants more.
 * @param {string} question
 * @param {AbortSignal} signal
 */
export async function * answer (question, signal) {
  const text = `You asked: “${question}”. I am no language model, only a generator on the server that takes its time, so I shall tell you about this answer instead.

It grows on the server, token by token, whoever is watching. Every part of the conversation is kept there, and this page follows it from its beginning at its own pace. Switch your network off for a moment: nothing is lost, and nothing comes twice, because each event has an id and the session goes on behind the last one that you have got.

Now reload the page. The session of the old page has ended, but the conversation has not: the new page knows its name, follows it again, and finds me where I am by now, still talking.

A lost connection does not stop me, because it does not say that you want me to stop. The button does: it sends a message.`
  for (const token of text.split(/(?<=\s)(?=\S)/)) {
    await setTimeout(40, undefined, { signal })
    yield token
  }
}
