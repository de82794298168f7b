/** @import { Book, Person, Said } from './contract.js' */

export const REMEMBERED = 50

/**
 * The book of one process.
 * @returns {Book}
 */
export function memoryBook () {
  /** @type {Map<number, Person>} */
  const people = new Map()
  /** @type {Map<string, Said[]>} by room */
  const said = new Map()
  let visitors = 0
  let version = 0
  return {
    visitor: () => ++visitors,
    put: person => people.set(person.id, person),
    remove: ({ id }) => people.delete(id),
    people: () => ({ version: ++version, people: [...people.values()] }),
    write: message => said.set(message.room, [...said.get(message.room) ?? [], message].slice(-REMEMBERED)),
    read: room => said.get(room) ?? []
  }
}
