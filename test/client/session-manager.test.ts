import t from 'tap'
import type { ConnectOptions } from '../../lib/client/index.js'
import { SessionManager, type SessionView } from '../../lib/client/session-manager.js'
import type { Contract } from '../../lib/contract.js'
import { FORCE_CLOSE } from '../support/clients.js'
import { serve } from '../support/server.js'
import { waitUntil } from '../support/wait.js'

t.test('a component with an invalid option shows no session, and opens one when the option is corrected', async t => {
  const { url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const manager = new SessionManager()
  t.teardown(() => { manager.open(undefined) })
  let options: ConnectOptions = {}
  let view: SessionView<Contract> | undefined
  manager.update(() => options, newView => { view = newView })
  manager.open(url)
  await waitUntil(() => view?.state === 'open', 'the session')
  options = { header: {} } as object
  t.throws(() => { manager.open(`${url}/`) }, { code: 'OPTION_INVALID' })
  t.match(view, { state: 'connecting', sessionId: undefined })
  options = {}
  manager.open(`${url}/`)
  await waitUntil(() => view?.state === 'open', 'the other session')
})

t.test('reopen does nothing without a URL', t => {
  const manager = new SessionManager()
  const views: unknown[] = []
  manager.update({}, view => { views.push(view) })
  manager.methods.reopen()
  t.strictSame(views, [])
  t.end()
})

t.test('a handler of the component answers the requests of each of its sessions, until it is removed', async t => {
  const { app, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const manager = new SessionManager()
  t.teardown(() => { manager.open(undefined) })
  let view: SessionView<Contract> | undefined
  manager.update({}, newView => { view = newView })
  const remove = manager.methods.handle('double', n => Number(n) * 2)
  const ask = async (n: number): Promise<unknown> => {
    await waitUntil(() => view?.state === 'open', 'the session')
    return await (await app.sseSessions.find(view?.sessionId ?? ''))?.request('double', n)
  }
  manager.open(url)
  t.equal(await ask(2), 4)
  manager.methods.reopen()
  t.equal(await ask(3), 6)
  remove()
  await t.rejects(ask(4), { code: 'FST_SSE_REQUEST_UNHANDLED' })
})
