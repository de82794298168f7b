// Rooms to talk in: who is there, who is typing, what was said. What is said in a room goes to the channel of its name.
import sseSessions from 'fastify-sse-sessions'
import { serveFile } from '../serve-file.js'
import { memoryBook } from './book.js'

/** @import { FastifyInstance } from 'fastify' */
/** @import { ContractSessions, Session, SseSessionsOptions } from 'fastify-sse-sessions' */
/** @import { Book, Chat, Person } from './contract.js' */

const ROOMS = ['Lobby', 'Kitchen', 'Garden']

const text = (/** @type {number} */ maxLength) => ({ type: 'string', minLength: 1, maxLength })
const entering = { type: 'object', required: ['room', 'name'], properties: { room: { enum: ROOMS }, name: text(24) } }
const saying = { type: 'object', required: ['text'], properties: { text: text(2000) } }

/**
 * In one process as it is; in several with a store and a book that they share.
 * @param {FastifyInstance} app
 * @param {Pick<SseSessionsOptions, 'store'> & { book?: Book }} options
 */
export default async function chat (app, { book = memoryBook(), ...options }) {
  await app.register(sseSessions, { prefix: '/chat', retry: 500, ...options })
  app.get('/chat', serveFile(new URL('index.html', import.meta.url)))

  /** @type {ContractSessions<Chat>} */
  const sessions = app.sseSessions.withContract()

  const tellPeople = async () => sessions.broadcast('people', await book.people())

  /** @type {(session: Pick<Session, 'data'>) => Person | undefined} */
  const personOf = ({ data }) => /** @type {Person | undefined} */ (data.person)

  /** @param {Pick<Session, 'data'>} session */
  function enteredBy (session) {
    const person = personOf(session)
    if (person === undefined) throw Object.assign(new Error('Enter a room first'), { statusCode: 409 })
    return person
  }

  sessions.handle('enter', { schema: entering }, async (session, { room, name }) => {
    const before = personOf(session)
    if (before !== undefined) await session.leave(before.room)
    const person = { id: before?.id ?? await book.visitor(), name, room, away: false }
    await session.update({ person })
    await book.put(person)
    // First into the room: what is said before the book is read is in it, what is said after that is heard.
    await session.join(room)
    await session.emit('room', { room, you: person.id, said: await book.read(room) })
    await tellPeople()
  })

  sessions.handle('say', { schema: saying }, async (session, { text }, { message }) => {
    const { id: from, name, room } = enteredBy(session)
    const said = { id: `${from}.${message.id ?? crypto.randomUUID()}`, room, from, name, text, at: Date.now() }
    await book.write(said)
    await sessions.channel(room).emit('said', said)
  })

  sessions.handle('typing', async session => {
    const person = enteredBy(session)
    await sessions.channel(person.room).emit('typing', person, { except: session })
  })

  /** @type {(session: Pick<Session, 'data'>, away: boolean) => Promise<void>} */
  async function setAway (session, away) {
    const person = personOf(session)
    if (person === undefined) return
    await book.put({ ...person, away })
    await tellPeople()
  }

  sessions
    .addHook('onOpen', () => ({ rooms: ROOMS }))
    .addHook('onDisconnect', async session => {
      // It may have found another process before this one noticed that it had left.
      const found = await sessions.find(session.id)
      if (found?.connected !== true) await setAway(session, true)
    })
    .addHook('onResume', session => setAway(session, false))
    .addHook('onClose', async session => {
      const person = personOf(session)
      if (person === undefined) return
      await book.remove(person)
      await tellPeople()
    })
}
