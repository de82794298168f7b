// A chat with rooms. It shows who is in a room, who is typing, and the latest messages. Each room is a channel, which keeps its messages.
// Its members are the people in it.
import { randomInt } from 'node:crypto'
import sseSessions from 'fastify-sse-sessions'
import { addPage } from '../site.js'

/** @import { FastifyInstance } from 'fastify' */
/** @import { ContractSessions, Session, SseSessionsOptions } from 'fastify-sse-sessions' */
/** @import { Chat, Person } from './contract.js' */

const ROOMS = ['Lobby', 'Kitchen', 'Garden']
const MAX_MESSAGES = 50
const DAY = 86_400_000

const textSchema = (/** @type {number} */ maxLength) => ({ type: 'string', minLength: 1, maxLength })
const enterSchema = { type: 'object', required: ['room', 'name'], properties: { room: { enum: ROOMS }, name: textSchema(24) } }
const sendSchema = { type: 'object', required: ['text'], properties: { text: textSchema(2000) } }
const nudgeSchema = { type: 'object', required: ['id'], properties: { id: { type: 'integer' } } }

/**
 * By default, everything is kept in the memory of one process. For several processes, pass a store that they share.
 * @param {FastifyInstance} app
 * @param {Pick<SseSessionsOptions, 'store'>} options
 */
export default async function chat (app, options) {
  await app.register(sseSessions, { prefix: '/chat', retry: 500, ...options })
  addPage(app, '/chat', 'Chat', 'chat/index.html')

  /** @type {ContractSessions<Chat>} */
  const sessions = app.sseSessions.withContract()

  const messagesOf = (/** @type {string} */ room) => sessions.channel(room, { keep: DAY })
  // A channel of its own, so that the history of the room contains only messages.
  const typingIn = (/** @type {string} */ room) => sessions.channel(`typing in ${room}`)

  /** @type {(session: Session, away?: boolean) => Person | undefined} */
  const personOf = ({ data, connected }, away = !connected) => data.person === undefined ? undefined : Object.assign({}, /** @type {Person} */ (data.person), { away })

  const listPeople = async () => (await Promise.all(ROOMS.map(room => sessions.channel(room).sessions()))).flat().flatMap(session => personOf(session) ?? [])

  /** @param {Session} session */
  function requirePerson (session) {
    const person = personOf(session)
    if (person === undefined) throw Object.assign(new Error('Enter a room first'), { statusCode: 409 })
    return person
  }

  sessions.handle('enter', { schema: enterSchema }, async (session, { room, name }) => {
    const before = personOf(session)
    if (before !== undefined) await Promise.all([session.leave(before.room), session.leave(typingIn(before.room).name)])
    // The hooks `onJoin` and `onLeave` report that.
    const person = { id: before?.id ?? randomInt(2 ** 31), name, room }
    await session.update({ person })
    await session.join(typingIn(room).name)
    // All later messages follow as events.
    const history = await session.join(room, { history: MAX_MESSAGES })
    await session.emit('room', { room, you: person.id, messages: history.flatMap(({ event, data }) => event === 'message' ? data : []), people: await listPeople() })
  })

  sessions.handle('send', { schema: sendSchema }, async (session, { text }, { message: { id = crypto.randomUUID() } }) => {
    const { id: from, name, room } = requirePerson(session)
    await messagesOf(room).emit('message', { id: `${from}.${id}`, room, from, name, text, at: Date.now() })
  })

  sessions.handle('typing', async session => {
    const person = requirePerson(session)
    await typingIn(person.room).emit('typing', person, { except: session })
  })

  // Asks the page of a person. Concurrent, so that later messages do not wait for the answer.
  sessions.handle('nudge', { schema: nudgeSchema, concurrent: true }, async (session, { id }) => {
    const { name, room } = requirePerson(session)
    const other = (await sessions.channel(room).sessions()).find(member => personOf(member)?.id === id)
    if (other === undefined) throw Object.assign(new Error('This person has left'), { statusCode: 404 })
    const { isVisible } = await other.request('nudge', { from: name }, { timeout: 5000 })
    return { isVisible: isVisible === true }
  })

  /** @type {(event: 'person' | 'left', session: Session, away?: boolean) => Promise<void>} */
  async function report (event, session, away) {
    const person = personOf(session, away)
    // A page that was disconnected needs only the latest change of each person.
    if (person !== undefined) await sessions.broadcast(event, person, { latest: `person ${person.id}` })
  }

  sessions
    .addHook('onOpen', () => ({ rooms: ROOMS }))
    .addHook('onDisconnect', async session => {
      // The client may have connected to another process before this one detected the disconnect.
      const current = await sessions.find(session.id)
      if (current?.connected !== true) await report('person', session)
    })
    .addHook('onResume', session => report('person', session, false))
    .addHook('onJoin', async (session, { name }) => { if (ROOMS.includes(name)) await report('person', session) })
    .addHook('onLeave', async (session, { name }) => { if (ROOMS.includes(name)) await report('left', session) })
}
