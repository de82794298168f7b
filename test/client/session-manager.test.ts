import t from 'tap'
import type { ConnectOptions } from '../../lib/client/index.js'
import { SessionManager, type SessionView } from '../../lib/client/session-manager.js'
import type { Contract } from '../../lib/contract.js'
import { FORCE_CLOSE } from '../support/clients.js'
import { matchList } from '../support/match-list.js'
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

t.test('the error that closes the session of a component is printed, unless the component has a listener for it', async t => {
  const printed: unknown[] = []
  t.intercept(console, 'error', { value: (error: unknown) => { printed.push(error) } })
  const { url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const manager = new SessionManager()
  let view: SessionView<Contract> | undefined
  manager.update({}, newView => { view = newView })
  const openWrong = async (path: string): Promise<void> => {
    manager.open(`${url}/${path}`)
    await waitUntil(() => view?.state === 'closed', 'the error')
    // The loop over the events of the session ends later.
    await new Promise(resolve => { setImmediate(resolve) })
  }
  await openWrong('first')
  matchList(t, printed, [{ code: 'HTTP_404' }])
  const received: unknown[] = []
  const remove = manager.methods.on('error', error => {
    received.push(error)
    remove()
  })
  await openWrong('second')
  matchList(t, received, [{ code: 'HTTP_404' }])
  t.equal(printed.length, 1)
  await openWrong('third')
  t.equal(printed.length, 2)
  t.equal(received.length, 1)
})
