/** An event's data whose JSON has the given length in bytes. `n` is the number of the event for its client, from 1. */
export function createPayload (n, size = 128) {
  const emptyLength = JSON.stringify({ n, text: '' }).length
  return { n, text: 'x'.repeat(Math.max(0, size - emptyLength)) }
}

/** Small tokens like those of a language model, one per tick of the event loop. `toEvent` makes each what a subject's API expects. */
export async function * generateTokens (first, count, toEvent = token => token) {
  for (let n = first; n < first + count; n++) {
    await new Promise(resolve => { setImmediate(resolve) })
    yield toEvent({ n, token: ' word' })
  }
}
