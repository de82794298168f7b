import t from 'tap'
import { connect, type ClientSession } from '../lib/client/node.js'
import type * as react from '../lib/client/react.js'
import type { ContractSessions } from '../lib/index.js'
import { serve } from './support/server.js'
import { signal, within } from './support/within.js'

interface Chat {
  down: { said: { who: string, text: string }, count: number }
  up: { say: (data: { text: string }) => { delivered: number }, leave: (reason: string) => void }
}

t.test('one contract types what the server and its clients say to each other', async t => {
  const { sessions: untyped, url } = await serve(t)
  const sessions = untyped.withContract<Chat>()
  sessions
    .addHook('onOpen', async session => { await session.emit('count', sessions.size) })
    .handle('say', async (session, { text }) => {
      await session.join('room')
      await sessions.channel('room').emit('said', { who: session.label, text: text.toUpperCase() })
      return { delivered: sessions.channel('room').size }
    })
    .handle('leave', { schema: { type: 'string' } }, async (session, reason) => await session.close(reason.trim()))

  const session = connect<Chat>(url)
  t.teardown(() => session.close())
  const counts: number[] = []
  session.on('count', count => { counts.push(count) })
  const answered = session.request('say', { text: 'hi' })
  for await (const { event, data } of session) {
    if (event === 'count') continue
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

// Compiled, not run: each of these is a mistake that must not compile.

export function server (sessions: ContractSessions<Chat>): void {
  sessions.addHook('onOpen', async session => {
    // @ts-expect-error no such event
    await session.emit('shouted', {})
    // @ts-expect-error data of another event
    await session.emit('said', 1)
    // @ts-expect-error the contract has no default event
    await session.send('hi')
    // @ts-expect-error items of another type
    await session.stream('count', ['one'])
  })
  // @ts-expect-error no such event
  sessions.handle('shout', () => {})
  // @ts-expect-error another answer
  sessions.handle('say', () => ({ delivered: 'all' }))
  // @ts-expect-error no such property
  sessions.handle('say', (_session, data) => ({ delivered: data.length }))
  // @ts-expect-error data of another event
  sessions.broadcast('count', { who: 'me', text: 'hi' })
  // @ts-expect-error no such event
  sessions.channel('room').emit('shouted', {})
  // @ts-expect-error data of another event
  sessions.find('id')?.emit('count', 'one')
}

export async function client (session: ClientSession<Chat>): Promise<void> {
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
