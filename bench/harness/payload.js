/** An event's data whose JSON has the given length; `n` counts the events of a client, from 1. */
export function payload (n, size = 128) {
  const bare = JSON.stringify({ n, text: '' }).length
  return { n, text: 'x'.repeat(Math.max(0, size - bare)) }
}

/** Small tokens, one a turn of the event loop, as they would come from a model; `wrap` makes of each what a peer wants. */
export async function * tokens (first, count, wrap = token => token) {
  for (let n = first; n < first + count; n++) {
    await new Promise(resolve => { setImmediate(resolve) })
    yield wrap({ n, token: ' word' })
  }
}
