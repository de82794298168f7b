import t from 'tap'
import { connect, type ClientSession } from '../../lib/client/node.js'
import type * as react from '../../lib/client/react.js'
import type { ContractSession, ContractSessions } from '../../lib/index.js'
import { serve } from '../support/server.js'
import { deferred, withTimeout } from '../support/wait.js'

interface Chat {
  down: { said: { who: string, text: string }, count: number, bell: void, blank: undefined }
  up: { say: (data: { text: string }) => Promise<{ delivered: number }>, leave: (reason: string) => void, stop: () => void, ask: (data: { n: number }) => AsyncIterable<string>, search: (text: string) => Promise<AsyncIterable<number> | 'nothing'> }
  requests: { confirm: (data: { text: string }) => Promise<boolean>, ping: () => void }
}

interface Greetings {
  down: { message: string }
}

t.test('one contract types the messages between the server and its clients', async t => {
  const { sessions: untyped, url } = await serve(t)
  const sessions = untyped.withContract<Chat>()
  sessions
    .addHook('onOpen', async session => { await session.emit('count', sessions.size) })
    .handle('say', async (session, { text }) => {
      await session.join('room')
      await sessions.channel('room').emit('said', { who: session.shortId, text: text.toUpperCase() })
      return { delivered: await sessions.channel('room').count() }
    })
    .handle('ask', async function * (_session, { n }) { yield `n ${n}` })
    .handle('leave', { schema: { type: 'string' } }, async (session, reason) => await session.close(reason.trim()))

  const session = connect<Chat>(url)
  t.teardown(() => session.close())
  const counts: number[] = []
  session.on('count', count => { counts.push(count) })
  const result = session.request('say', { text: 'hi' })
  for await (const { event, data } of session) {
    if (event !== 'said') continue
    t.equal(data.text, 'HI')
    break
  }
  const { delivered } = await result
  t.equal(delivered, 1)
  for await (const token of session.subscribe('ask', { n: 1 })) t.equal(token.toUpperCase(), 'N 1')
  t.equal((await session.request('ask', { n: 1 })).status satisfies 'streaming', 'streaming')
  t.strictSame(counts, [1])

  session.handle('confirm', ({ text }) => text.length > 1)
  session.handle('ping', async () => {})
  const [server] = await sessions.channel('room').sessions()
  t.equal((await server?.request('confirm', { text: 'sure?' })) satisfies boolean | undefined, true)
  t.equal(await server?.request('ping'), undefined)
  await server?.emit('count', 2, { acknowledged: true })
  // @ts-expect-error -- no such request
  const wrong = (): unknown => server?.request('say', { text: 'x' })
  // @ts-expect-error -- the answer must be a boolean
  const wrongAnswer = (): unknown => session.handle('confirm', () => 1)
  t.ok([wrong, wrongAnswer])

  const closed = deferred<string>()
  session.on('close', ({ reason }) => { closed.resolve(reason) })
  await session.emit('leave', ' bye ')
  t.equal(await withTimeout(closed.promise, 'the close of the session'), 'bye')
})

t.test('sends the events of a contract by every method, with and without data', async t => {
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
  sessions.handle('stop', async (session, data) => {
    await untyped.withContract<Greetings>().broadcast('message', `data: ${data}`)
    await session.close(data)
  })
  const session = connect<Chat>(url)
  t.teardown(() => session.close())
  session.request('say', { text: '' })
  session.request('stop')
  const received: unknown[] = []
  for await (const { event, data } of session) received.push([event, data])
  t.strictSame(received, [['bell', null], ['count', 1], ['count', 2], ['bell', null], ['count', 3], ['blank', null], ['message', 'data: undefined']])
})

// The following functions are compiled, but not run. Each line after `@ts-expect-error` must not compile.

export async function checkServer (sessions: ContractSessions<Chat>, handler: never): Promise<void> {
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
    // @ts-expect-error the event has no data
    await session.emit('bell', 1)
  })
  sessions.addHook('onJoin', async (session, channel) => {
    await session.emit('count', 1)
    for (const member of await channel.sessions()) await member.emit('count', 1)
    await channel.emit('count', 1, { except: [session] })
    // @ts-expect-error data of another event
    await channel.emit('count', 'one')
  })
  // @ts-expect-error no such event
  sessions.handle('shout', handler)
  // @ts-expect-error no such event
  sessions.handle('shout', {}, handler)
  // The contract has a promise here; a handler may return the value itself.
  sessions.handle('say', () => ({ delivered: 1 }))
  // @ts-expect-error another result
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
  // @ts-expect-error the session may not exist
  await (await sessions.find('id')).emit('count', 1)
}

export async function checkDefaultEvent (sessions: ContractSessions<Greetings>, session: ContractSession<Greetings>): Promise<void> {
  await session.send('hi')
  await sessions.channel('room').send('hi', { except: session })
  // @ts-expect-error data of another type
  await session.send(1)
  // @ts-expect-error data of another type
  await sessions.channel('room').send(1)
}

export async function checkClient (session: ClientSession<Chat>, handler: never): Promise<void> {
  // @ts-expect-error no such event
  session.on('shouted', handler)
  // @ts-expect-error no such event
  await session.emit('shout', handler)
  // @ts-expect-error no such event
  await session.request('shout', handler)

  // @ts-expect-error an event that clients send
  session.on('say', () => {})
  // @ts-expect-error no such property
  session.on('said', ({ whom }) => { console.log(whom) })
  session.on('gap', ({ reason }) => { console.log(reason) })
  // @ts-expect-error an event that the server sends
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
  const found: { status: 'streaming', message: string } | 'nothing' = await session.request('search', 'a')
  console.log(found)
  for await (const n of session.subscribe('search', 'a')) console.log(n.toFixed())
}

export function CheckedComponent ({ useSession, useSessionEvent }: typeof react): string {
  const session = useSession<Chat>('/chat')
  const said = useSessionEvent(session, 'said')
  // @ts-expect-error no such event
  useSessionEvent(session, 'shouted')
  // @ts-expect-error undefined before the first event
  console.log(said.text)
  // @ts-expect-error not a property of each event
  console.log(session.lastEvent?.data.text)
  if (session.lastEvent?.event === 'said') return session.lastEvent.data.text
  return `${said?.who}`
}
