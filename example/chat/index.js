// Rooms to talk in: who is there, who is typing, what was said. What is said in a room goes to the channel of its name.
import sseSessions from 'fastify-sse-sessions'
import { serveFile } from '../serve-file.js'

/** @import { FastifyInstance } from 'fastify' */
/** @import { ContractSessions } from 'fastify-sse-sessions' */
/** @import { Chat, Person, Said } from './contract.js' */

const ROOMS = ['Lobby', 'Kitchen', 'Garden']
const REMEMBERED = 50

const text = (/** @type {number} */ maxLength) => ({ type: 'string', minLength: 1, maxLength })
const entering = { type: 'object', required: ['room', 'name'], properties: { room: { enum: ROOMS }, name: text(24) } }
const saying = { type: 'object', required: ['text'], properties: { text: text(2000) } }

/** @param {FastifyInstance} app */
export default async function chat (app) {
  await app.register(sseSessions, { prefix: '/chat', retry: 500 })
  app.get('/chat', serveFile(new URL('index.html', import.meta.url)))

  /** @type {ContractSessions<Chat>} */
  const sessions = app.sseSessions.withContract()
  /** @type {Map<string, Person>} by the ids of their sessions, which are secrets */
  const people = new Map()
  /** @type {Map<string, Said[]>} by room */
  const said = new Map(ROOMS.map(room => [room, []]))
  let visitors = 0

  const tellPeople = () => sessions.broadcast('people', [...people.values()])

  /** @param {{ id: string }} session */
  function personOf ({ id }) {
    const person = people.get(id)
    if (person === undefined) throw Object.assign(new Error('Enter a room first'), { statusCode: 409 })
    return person
  }

  sessions.handle('enter', { schema: entering }, async (session, { room, name }) => {
    const before = people.get(session.id)
    if (before !== undefined) await session.leave(before.room)
    const id = before?.id ?? ++visitors
    people.set(session.id, { id, name, room, away: false })
    // At once, so that what is said is either in the one or comes by the other.
    await Promise.all([session.join(room), session.emit('room', { room, you: id, said: said.get(room) ?? [] })])
    await tellPeople()
  })

  sessions.handle('say', { schema: saying }, async (session, { text }) => {
    const { id: from, name, room } = personOf(session)
    const message = { from, name, text, at: Date.now() }
    said.set(room, [...said.get(room) ?? [], message].slice(-REMEMBERED))
    await sessions.channel(room).emit('said', message)
  })

  sessions.handle('typing', async session => {
    const person = personOf(session)
    await sessions.channel(person.room).emit('typing', person, { except: session })
  })

  /** @type {(session: { id: string }, away: boolean) => Promise<void>} */
  async function setAway ({ id }, away) {
    const person = people.get(id)
    if (person === undefined) return
    people.set(id, { ...person, away })
    await tellPeople()
  }

  sessions
    .addHook('onOpen', () => ({ rooms: ROOMS }))
    .addHook('onDisconnect', session => setAway(session, true))
    .addHook('onResume', session => setAway(session, false))
    .addHook('onClose', async ({ id }) => { if (people.delete(id)) await tellPeople() })
}
