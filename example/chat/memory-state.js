/** @import { ChatMessage, ChatState, Person } from './contract.js' */

/** How many messages are kept for each room. */
export const MAX_MESSAGES = 50

/**
 * The chat's state in the memory of one process.
 * @returns {ChatState}
 */
export function createMemoryState () {
  /** @type {Map<number, Person>} */
  const people = new Map()
  /** @type {Map<string, ChatMessage[]>} by room */
  const messages = new Map()
  let lastId = 0
  let version = 0
  return {
    nextPersonId: () => ++lastId,
    setPerson: person => people.set(person.id, person),
    removePerson: ({ id }) => people.delete(id),
    listPeople: () => ({ version: ++version, people: [...people.values()] }),
    addMessage: message => messages.set(message.room, [...messages.get(message.room) ?? [], message].slice(-MAX_MESSAGES)),
    listMessages: room => messages.get(room) ?? []
  }
}
