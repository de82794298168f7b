import t from 'tap'
import { connect, type ClientSession } from '../../lib/client/node.js'
import type * as react from '../../lib/client/react.js'
import type { ContractSession, ContractSessions } from '../../lib/index.js'
import { serve } from '../support/server.js'
import { signal, within } from '../support/wait.js'

interface Chat {
  down: { said: { who: string, text: string }, count: number, bell: void, blank: undefined }
  up: { say: (data: { text: string }) => Promise<{ delivered: number }>, leave: (reason: string) => void, stop: () => void }
}

interface Talk {
  down: { message: string }
}

t.test('one contract types what the server and its clients say to each other', async t => {
  const { sessions: untyped, url } = await serve(t)
  const sessions = untyped.withContract<Chat>()
  sessions
    .addHook('onOpen', async session => { await session.emit('count', sessions.size) })
    .handle('say', async (session, { text }) => {
      await session.join('room')
      await sessions.channel('room').emit('said', { who: session.shortId, text: text.toUpperCase() })
      return { delivered: await sessions.channel('room').count() }
    })
    .handle('leave', { schema: { type: 'string' } }, async (session, reason) => await session.close(reason.trim()))

  const session = connect<Chat>(url)
  t.teardown(() => session.close())
  const counts: number[] = []
  session.on('count', count => { counts.push(count) })
  const answered = session.request('say', { text: 'hi' })
  for await (const { event, data } of session) {
    if (event !== 'said') continue
    t.equal(data.text, 'HI')
    break
  }
  const { delivered } = await answered
  t.equal(delivered, 1)
  t.strictSame(counts, [1])

  const closed = signal<string>()
  session.on('close', ({ reason }) => { closed.resolve(reason) })
  await session.emit('leave', ' bye ')
  t.equal(await within(closed.promise, 'the end of the session'), 'bye')
})

t.test('what a contract allows is sent by every way there is, and an event without data needs none', async t => {
  const { sessions: untyped, url } = await serve(t)
  const sessions = untyped.withContract<Chat>()
  sessions.handle('say', async session => {
    await session.join('room')
    await session.emit('bell')
    await (await sessions.find(session.id))?.stream('count', [1, 2])
    await sessions.channel('room').emit('bell')
    await sessions.channel('room').emit('bell', undefined, { except: session })
    await sessions.channel('room').emit('count', 3)
    await sessions.broadcast('blank')
    await sessions.broadcast('count', 4, { except: session })
    return { delivered: 0 }
  })
  sessions.handle('stop', async (session, nothing) => {
    await untyped.withContract<Talk>().broadcast('message', `data: ${nothing}`)
    await session.close(nothing)
  })
  const session = connect<Chat>(url)
  t.teardown(() => session.close())
  session.request('say', { text: '' })
  session.request('stop')
  const heard: unknown[] = []
  for await (const { event, data } of session) heard.push([event, data])
  t.strictSame(heard, [['bell', null], ['count', 1], ['count', 2], ['bell', null], ['count', 3], ['blank', null], ['message', 'data: undefined']])
})

// Compiled, not run: each of these is a mistake that must not compile.

export async function server (sessions: ContractSessions<Chat>, anything: never): Promise<void> {
  sessions.addHook('onOpen', async session => {
    // @ts-expect-error no such event
    await session.emit('shouted', {})
    // @ts-expect-error data of another event
    await session.emit('said', 1)
    // @ts-expect-error the contract has no default event
    await session.send('hi')
    // @ts-expect-error items of another type
    await session.stream('count', ['one'])
    // @ts-expect-error no such event
    await session.stream('shouted', [])
    // @ts-expect-error the data is missing
    await session.emit('count')
    // @ts-expect-error there is none to be had
    await session.emit('bell', 1)
  })
  // @ts-expect-error no such event
  sessions.handle('shout', anything)
  // @ts-expect-error likewise
  sessions.handle('shout', {}, anything)
  // An answer that is promised may be there at once.
  sessions.handle('say', () => ({ delivered: 1 }))
  // @ts-expect-error another answer
  sessions.handle('say', () => ({ delivered: 'all' }))
  // @ts-expect-error no such property
  sessions.handle('say', (_session, data) => ({ delivered: data.length }))
  // @ts-expect-error data of another event
  await sessions.broadcast('count', { who: 'me', text: 'hi' })
  // @ts-expect-error no such event
  await sessions.broadcast('shouted', {})
  // @ts-expect-error these are options, not data
  await sessions.broadcast('bell', { except: undefined })
  // @ts-expect-error no such event
  await sessions.channel('room').emit('shouted', {})
  // @ts-expect-error the data is missing
  await sessions.channel('room').emit('count')
  // @ts-expect-error data of another event
  await sessions.channel('room').emit('count', 'one')
  // @ts-expect-error the contract has no default event
  await sessions.channel('room').send('hi')
  // @ts-expect-error data of another event
  await (await sessions.find('id'))?.emit('count', 'one')
  // @ts-expect-error there may be none
  await (await sessions.find('id')).emit('count', 1)
}

/** The default event, where a contract has one. */
export async function talk (sessions: ContractSessions<Talk>, session: ContractSession<Talk>): Promise<void> {
  await session.send('hi')
  await sessions.channel('room').send('hi', { except: session })
  // @ts-expect-error data of another type
  await session.send(1)
  // @ts-expect-error data of another type
  await sessions.channel('room').send(1)
}

export async function client (session: ClientSession<Chat>, anything: never): Promise<void> {
  // @ts-expect-error no such event
  session.on('shouted', anything)
  // @ts-expect-error no such event
  await session.emit('shout', anything)
  // @ts-expect-error no such event
  await session.request('shout', anything)

  // @ts-expect-error an event that comes up
  session.on('say', () => {})
  // @ts-expect-error no such property
  session.on('said', ({ whom }) => { console.log(whom) })
  session.on('gap', ({ reason }) => { console.log(reason) })
  // @ts-expect-error an event that comes down
  await session.emit('said', { who: 'me', text: 'hi' })
  // @ts-expect-error data of another type
  await session.request('say', 'hi')
  // @ts-expect-error no such property
  console.log((await session.request('say', { text: 'hi' })).handled)
  // @ts-expect-error the contract has no default event
  await session.send('hi')
  // @ts-expect-error the data is missing
  await session.emit('say')
  await session.emit('stop')
  await session.request('stop', undefined, { timeout: 1 })
  // @ts-expect-error these are options, not data
  await session.request('stop', { timeout: 1 })
}

export function component ({ useSession, useSessionEvent }: typeof react): string {
  const session = useSession<Chat>('/chat')
  const said = useSessionEvent(session, 'said')
  // @ts-expect-error no such event
  useSessionEvent(session, 'shouted')
  // @ts-expect-error there may be none yet
  console.log(said.text)
  // @ts-expect-error not of each event
  console.log(session.lastEvent?.data.text)
  if (session.lastEvent?.event === 'said') return session.lastEvent.data.text
  return `${said?.who}`
}
