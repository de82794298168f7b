import t from 'tap'
import { memoryStore, StoreUnavailable, type Store, type StoreFactory } from '../../lib/index.js'
import { MemoryStore } from '../../lib/store/memory/memory-store.js'
import { FlakyStore } from '../support/flaky-store.js'
import { matchList } from '../support/match-list.js'
import { waitUntil } from '../support/wait.js'
import { callMessage, openGet, post, startSession } from './support/raw.js'
import { createServer, serveMcp } from './support/server.js'

const PING = { jsonrpc: '2.0', id: 1, method: 'ping' }

type State = NonNullable<Awaited<ReturnType<Store['find']>>>

/** A memory store whose methods a test can replace, and the states of the sessions that were opened. The first one is the inbox. */
function createStore (): { store: StoreFactory, states: State[], memory: () => Store } {
  const states: State[] = []
  let memory: Store | undefined
  const store: StoreFactory = (settings, callbacks) => {
    const created = memoryStore(settings, callbacks)
    memory = Object.assign(created, {
      open: (id: string, principal: string | undefined) => {
        const state = MemoryStore.prototype.open.call(created, id, principal)
        if (state !== undefined) states.push(state)
        return state
      }
    })
    return memory
  }
  return { store, states, memory: () => memory as Store }
}

t.test('the boot fails if the store has no session for the inbox', async t => {
  const store = new FlakyStore()
  store.losesSessions = true
  await t.rejects(serveMcp(t, { store: store.createStore }), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  await t.rejects(serveMcp(t, { store: (settings, callbacks) => Object.assign(memoryStore(settings, callbacks), { open: () => undefined }) }), { code: 'FST_SSE_STORE_UNAVAILABLE' })
})

t.test('the session of an inbox whose stream cannot be acquired is released', async t => {
  let detached = 0
  const store: StoreFactory = (settings, callbacks) => Object.assign(memoryStore(settings, callbacks), { attach: () => undefined, detach: () => { detached++ } })
  await t.rejects(serveMcp(t, { store }), { code: 'FST_SSE_STORE_UNAVAILABLE' })
  t.equal(detached, 1)
})

t.test('a process that has lost its inbox opens another one, and starts new servers', async t => {
  const { store, states, memory } = createStore()
  let count = 0
  const { url } = await serveMcp(t, {
    store,
    server: () => {
      if (++count === 2) throw new Error('no server')
      return createServer()
    }
  })
  const session = await startSession(url)
  const { open } = memory()
  memory().open = () => undefined
  await memory().end(states[0] as State, 'lost', false)
  states[0]?.listener?.onAbort()
  await waitUntil(async () => (await post(url, PING, session)).status === 503, 'the loss of the inbox')
  memory().open = open
  await waitUntil(async () => (await post(url, PING, session)).status === 500, 'the next inbox, and the server that fails')
  const find = memory().find.bind(memory())
  memory().find = () => undefined
  t.equal((await post(url, PING, session)).status, 404)
  let isOvertaken = true
  let isDown = true
  memory().find = async id => {
    const state = await find(id)
    if (count === 3 && isDown) {
      isDown = false
      throw new StoreUnavailable()
    }
    // Another process restores the session at the same time, and fails.
    if (state !== undefined && count === 4 && isOvertaken) {
      isOvertaken = false
      state.data = { ...state.data, inbox: 'other' }
    }
    return state
  }
  t.equal((await post(url, PING, session)).status, 503)
  matchList(t, await (await post(url, callMessage(1, 'add', { a: 1, b: 2 }), session)).json(), { result: { content: [{ text: '3' }] } })
  t.equal(count, 5)
})

t.test('an app without an inbox closes', async t => {
  const { store, states, memory } = createStore()
  const { app } = await serveMcp(t, { store })
  let attempts = 0
  memory().open = () => {
    attempts++
    return undefined
  }
  await memory().end(states[0] as State, 'lost', false)
  await waitUntil(() => attempts > 0, 'an attempt to open an inbox')
  await app.close()
})

t.test('a message that cannot be handled is logged', async t => {
  const lines: string[] = []
  const { store, states, memory } = createStore()
  await serveMcp(t, { store }, undefined, { logger: { level: 'error', stream: { write: (line: string) => { lines.push(line) } } } })
  memory().find = () => { throw new StoreUnavailable() }
  memory().send(states[0] as State, { frame: 'data: "stream"\n\n' })
  await waitUntil(() => lines.length > 0, 'the log line')
  t.match(lines[0], /could not be handled/)
})

t.test('messages for a process are handled once, and calls of processes that have failed are repeated or get an error', async t => {
  const { store, states, memory } = createStore()
  const { url } = await serveMcp(t, { store })
  const session = await startSession(url)
  const id = String(session['mcp-session-id'])
  const inbox = states[0] as State
  let count = 0
  /** Adds a stream whose messages another process has received. */
  const addStream = (data: object): string => {
    const state = memory().open(`stream-of-another-node-${count++}`, id) as State
    memory().update(state, { requestIds: [count], forwarded: { messages: [callMessage(count, 'wait')], info: { url, headers: {} } }, ...data })
    return state.id
  }
  const open = (stream: string): ReturnType<typeof openGet> => openGet(t, url, { ...session, 'last-event-id': `${stream}.0` })
  const pass = (stream: string): void => { memory().send(inbox, { frame: `data: "${stream}"\n\n` }) }
  const find = memory().find.bind(memory())
  const update = memory().update.bind(memory())

  const own = addStream({ inbox: inbox.id })
  const ownStream = await open(own)
  for (let copy = 0; copy < 3; copy++) pass(own)
  // Another process takes over while this one starts the call.
  const taken = addStream({ inbox: inbox.id })
  memory().update = async (state, change) => {
    await update(state, change)
    if (state.id === taken) await update(state, { inbox: 'other' })
  }
  pass(taken)
  const others = addStream({ inbox: 'other' })
  pass(others)
  const waitForCheck = async (): Promise<void> => {
    const lost = await open(addStream({ inbox: 'other', forwarded: undefined }))
    await lost.waitFor(({ data }) => String(JSON.stringify(data)).includes('is lost'))
  }
  await waitForCheck()
  t.equal(ownStream.events.filter(({ event }) => event === 'close').length, 0)
  t.equal((await post(url, callMessage(1, 'wait'), session)).status, 400, 'the first call runs')
  t.match((await find(taken))?.data, { inbox: 'other' })
  t.equal((await post(url, callMessage(2, 'add', { a: 1, b: 2 }), session)).status, 200, 'the second call does not run')
  t.ok((await find(others))?.data.forwarded, 'not handled by this process')

  const errors = [new StoreUnavailable(), new Error('broken')]
  memory().update = async (state, change) => {
    const error = state.id === others ? errors.shift() : undefined
    // The next check begins before this one ends.
    if (error instanceof StoreUnavailable) await waitForCheck()
    if (error !== undefined) throw error
    await update(state, change)
  }
  const broken = await open(others)
  await broken.waitFor(({ data }) => String(JSON.stringify(data)).includes('broken'))
  await broken.ended
})
