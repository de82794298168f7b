import { MAX_MESSAGES } from '../chat/memory-state.js'

/** @import { Redis } from 'ioredis' */
/** @import { ChatState } from '../chat/contract.js' */

/**
 * The chat's state in Redis, shared by several processes.
 * @param {Redis} redis
 * @returns {ChatState}
 */
export function createRedisState (redis) {
  const messagesKey = (/** @type {string} */ room) => `chat:messages:${room}`
  return {
    nextPersonId: () => redis.incr('chat:last-id'),
    setPerson: person => redis.hset('chat:people', person.id, JSON.stringify(person)),
    removePerson: ({ id }) => redis.hdel('chat:people', String(id)),
    listPeople: async () => {
      // One transaction, so that a list with a higher version is never older.
      const [version, people] = /** @type {[[null, number], [null, string[]]]} */ (await redis.multi().incr('chat:version').hvals('chat:people').exec())
      return { version: version[1], people: people[1].map(person => JSON.parse(person)) }
    },
    addMessage: message => {
      const key = messagesKey(message.room)
      return redis.multi().rpush(key, JSON.stringify(message)).ltrim(key, -MAX_MESSAGES, -1).exec()
    },
    listMessages: async room => (await redis.lrange(messagesKey(room), 0, -1)).map(message => JSON.parse(message))
  }
}
