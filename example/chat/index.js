// A chat with rooms. It shows who is in a room, who is typing, and the latest messages. Each room is a channel, which keeps its messages.
import sseSessions from 'fastify-sse-sessions'
import { addPage } from '../site.js'
import { createMemoryState } from './memory-state.js'

/** @import { FastifyInstance } from 'fastify' */
/** @import { ContractSessions, Session, SseSessionsOptions } from 'fastify-sse-sessions' */
/** @import { Chat, ChatState, Person } from './contract.js' */

const ROOMS = ['Lobby', 'Kitchen', 'Garden']
const MAX_MESSAGES = 50
const DAY = 86_400_000

const textSchema = (/** @type {number} */ maxLength) => ({ type: 'string', minLength: 1, maxLength })
const enterSchema = { type: 'object', required: ['room', 'name'], properties: { room: { enum: ROOMS }, name: textSchema(24) } }
const sendSchema = { type: 'object', required: ['text'], properties: { text: textSchema(2000) } }

/**
 * By default, everything is kept in the memory of one process. For several processes, pass a store and a state that they share.
 * @param {FastifyInstance} app
 * @param {Pick<SseSessionsOptions, 'store'> & { state?: ChatState }} options
 */
export default async function chat (app, { state = createMemoryState(), ...options }) {
  await app.register(sseSessions, { prefix: '/chat', retry: 500, ...options })
  addPage(app, '/chat', 'Chat', 'chat/index.html')

  /** @type {ContractSessions<Chat>} */
  const sessions = app.sseSessions.withContract()

  const messagesOf = (/** @type {string} */ room) => sessions.channel(room, { keep: DAY })
  // A channel of its own, so that the history of the room contains only messages.
  const typingIn = (/** @type {string} */ room) => sessions.channel(`typing in ${room}`)

  const broadcastPeople = async () => sessions.broadcast('people', await state.listPeople())

  /** @type {(session: Pick<Session, 'data'>) => Person | undefined} */
  const personOf = ({ data }) => /** @type {Person | undefined} */ (data.person)

  /** @param {Pick<Session, 'data'>} session */
  function requirePerson (session) {
    const person = personOf(session)
    if (person === undefined) throw Object.assign(new Error('Enter a room first'), { statusCode: 409 })
    return person
  }

  sessions.handle('enter', { schema: enterSchema }, async (session, { room, name }) => {
    const before = personOf(session)
    if (before !== undefined) await Promise.all([session.leave(before.room), session.leave(typingIn(before.room).name)])
    const person = { id: before?.id ?? await state.nextPersonId(), name, room, away: false }
    await session.update({ person })
    await state.setPerson(person)
    await session.join(typingIn(room).name)
    // All later messages follow as events.
    const history = await session.join(room, { history: MAX_MESSAGES })
    await session.emit('room', { room, you: person.id, messages: history.flatMap(({ event, data }) => event === 'message' ? data : []) })
    await broadcastPeople()
  })

  sessions.handle('send', { schema: sendSchema }, async (session, { text }, { message: { id = crypto.randomUUID() } }) => {
    const { id: from, name, room } = requirePerson(session)
    await messagesOf(room).emit('message', { id: `${from}.${id}`, room, from, name, text, at: Date.now() })
  })

  sessions.handle('typing', async session => {
    const person = requirePerson(session)
    await typingIn(person.room).emit('typing', person, { except: session })
  })

  /** @type {(session: Pick<Session, 'data'>, away: boolean) => Promise<void>} */
  async function setAway (session, away) {
    const person = personOf(session)
    if (person === undefined) return
    await state.setPerson({ ...person, away })
    await broadcastPeople()
  }

  sessions
    .addHook('onOpen', () => ({ rooms: ROOMS }))
    .addHook('onDisconnect', async session => {
      // The client may have connected to another process before this one detected the disconnect.
      const current = await sessions.find(session.id)
      if (current?.connected !== true) await setAway(session, true)
    })
    .addHook('onResume', session => setAway(session, false))
    .addHook('onClose', async session => {
      const person = personOf(session)
      if (person === undefined) return
      await state.removePerson(person)
      await broadcastPeople()
    })
}
