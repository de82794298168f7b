import { register } from 'node:module'
import t from 'tap'
import { connect } from '../../lib/client/node.js'
import { waitForEvent, recordEvents } from '../support/clients.js'
import { serve } from '../support/server.js'

// The network is lost while the module for shared sessions is loaded.
register(`data:text/javascript,${encodeURIComponent(`
  export async function resolve (specifier, context, next) {
    if (specifier.endsWith('/shared-fetch.js')) throw new Error('Failed to fetch')
    return await next(specifier, context)
  }
`)}`)

t.test('a client that cannot load the module for shared sessions has its own session', async t => {
  const { sessions, url } = await serve(t)
  sessions.handle('double', (_session, n) => (n as number) * 2)
  const session = connect(url, { shared: true })
  t.teardown(() => session.close())
  const events = recordEvents(session)
  await waitForEvent(session, 'open')
  t.equal(await session.request('double', 21), 42)
  t.strictSame(events.map(([name]) => name), ['open'])
})
