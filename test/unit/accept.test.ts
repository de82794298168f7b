import t from 'tap'
import { acceptsType } from '../../lib/wire/accept.js'

t.test('the time for a header with a quoted value that does not end is linear', async t => {
  // A quadratic algorithm would need more than the timeout of the test.
  const value = `"${'\\"'.repeat(1e6)}`
  t.equal(acceptsType('text/event-stream', `text/event-stream;note=${value}`), true)
  t.equal(acceptsType('text/event-stream', `text/html;note=${value}\\`), false)
})
