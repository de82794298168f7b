/** @import { ChatState, Person } from './contract.js' */

/**
 * The chat's state in the memory of one process.
 * @returns {ChatState}
 */
export function createMemoryState () {
  /** @type {Map<number, Person>} */
  const people = new Map()
  let lastId = 0
  let version = 0
  return {
    nextPersonId: () => ++lastId,
    setPerson: person => people.set(person.id, person),
    removePerson: ({ id }) => people.delete(id),
    listPeople: () => ({ version: ++version, people: [...people.values()] })
  }
}
