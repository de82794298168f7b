import { mock } from 'node:test'
import { waitUntil } from '../../support/wait.js'

/** Advances the mocked timers until `close()` has finished, because it needs some after all streams have ended. */
export async function finishClosing (closing: Promise<unknown>): Promise<void> {
  let isClosed = false
  closing.then(() => { isClosed = true }, () => {})
  await waitUntil(() => {
    mock.timers.tick(50)
    return isClosed
  }, 'close()')
}
