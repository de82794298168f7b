/** @import { Redis } from 'ioredis' */
/** @import { ChatState } from '../chat/contract.js' */

/**
 * The chat's state in Redis, shared by several processes.
 * @param {Redis} redis
 * @returns {ChatState}
 */
export function createRedisState (redis) {
  return {
    nextPersonId: () => redis.incr('chat:last-id'),
    setPerson: person => redis.hset('chat:people', person.id, JSON.stringify(person)),
    removePerson: ({ id }) => redis.hdel('chat:people', String(id)),
    listPeople: async () => {
      // One transaction, so that a list with a higher version is never older.
      const [version, people] = /** @type {[[null, number], [null, string[]]]} */ (await redis.multi().incr('chat:version').hvals('chat:people').exec())
      return { version: version[1], people: people[1].map(person => JSON.parse(person)) }
    }
  }
}
