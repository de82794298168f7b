import t from 'tap'
import type { ClientSession } from '../../lib/client/index.js'
import { testEachClient, FORCE_CLOSE, waitForEvent } from '../support/clients.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { waitUntil } from '../support/wait.js'
import { CLOSE_EVENT, endedStream, openStream, scriptedServer, welcome } from './support/scripted-server.js'

testEachClient(t, 'an error that a listener throws is uncaught, and the session and its other listeners continue', async (t, connect) => {
  const { sessions, url } = await serve(t, {}, { fastify: FORCE_CLOSE })
  const session = connect(url)
  session.on('open', () => { throw new Error('mine') })
  const uncaught: unknown[] = []
  const onUncaught = (error: unknown): void => { uncaught.push(error) }
  const originalListeners = process.listeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', onUncaught)
  await waitForEvent(session, 'open')
  await waitUntil(() => uncaught.length > 0, 'the error')
  process.off('uncaughtException', onUncaught)
  for (const listener of originalListeners) process.on('uncaughtException', listener)
  matchList(t, uncaught, [{ message: 'mine' }])
  const message = waitForEvent(session, 'message')
  await (await sessions.find(session.sessionId ?? ''))?.send(1)
  t.equal(await message, 1)
})

testEachClient(t, 'a listener that replaces itself receives each event once, and a removed listener receives nothing', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(`${welcome()}data: 1\n\ndata: 2\n\n${CLOSE_EVENT}`)])
  const session = connect(server.url)
  const received: unknown[] = []
  const addListener = (): void => {
    const off = session.on('message', data => {
      off()
      received.push(data)
      if (received.length < 10) addListener()
    })
  }
  addListener()
  session.on('open', () => { off() })
  const off = session.on('open', () => { t.fail('a removed listener was called') })
  await waitForEvent(session, 'close')
  t.strictSame(received, [1, 2])
})

testEachClient(t, 'removes only one of two listeners with the same function', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome())])
  const session = connect(server.url)
  let calls = 0
  const listener = (): void => { calls++ }
  const off = session.on('open', listener)
  session.on('open', listener)
  off()
  await waitForEvent(session, 'open')
  t.equal(calls, 1)
})

testEachClient(t, 'a removed listener receives no further event', async (t, connect) => {
  const server = await scriptedServer(t, [endedStream(welcome(), 'data: 1\n\n', 'data: 2\n\n', CLOSE_EVENT)])
  const session = connect(server.url)
  const received: unknown[] = []
  const off = session.on('message', data => {
    received.push(data)
    off()
  })
  await waitForEvent(session, 'close')
  t.strictSame(received, [1])
})

testEachClient(t, 'a listener of once gets one event, and off removes every addition of a listener', async (t, connect) => {
  const server = await scriptedServer(t, [openStream(welcome(), 'data: 1\n\ndata: 2\n\n')])
  const session = connect(server.url) as ClientSession<{ down: { message: number, said: number } }>
  const received: Array<[string, number]> = []
  const record = (name: string) => (data: number): void => { received.push([name, data]) }
  const [once, removed, twice, other] = ['once', 'removed', 'twice', 'other'].map(record) as [() => void, () => void, () => void, () => void]
  session.once('message', once)
  session.once('message', removed)
  session.off('message', removed)
  session.once('message', record('stopped'))()
  for (const event of ['message', 'message', 'said'] as const) session.on(event, twice)
  session.off('message', twice)
  session.on('message', other)
  session.off('said', other)
  await waitUntil(() => received.length >= 3, 'the events')
  t.strictSame(received, [['once', 1], ['other', 1], ['other', 2]])
})
