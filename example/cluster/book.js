import { REMEMBERED } from '../chat/book.js'

/** @import { Redis } from 'ioredis' */
/** @import { Book } from '../chat/contract.js' */

/**
 * A book that several processes share.
 * @param {Redis} redis
 * @returns {Book}
 */
export function redisBook (redis) {
  const saidIn = (/** @type {string} */ room) => `chat:said:${room}`
  return {
    visitor: () => redis.incr('chat:visitors'),
    put: person => redis.hset('chat:people', person.id, JSON.stringify(person)),
    remove: ({ id }) => redis.hdel('chat:people', String(id)),
    people: async () => {
      // Both at once: a list with a higher version was read later.
      const [version, people] = /** @type {[[null, number], [null, string[]]]} */ (await redis.multi().incr('chat:version').hvals('chat:people').exec())
      return { version: version[1], people: people[1].map(person => JSON.parse(person)) }
    },
    write: said => redis.multi().rpush(saidIn(said.room), JSON.stringify(said)).ltrim(saidIn(said.room), -REMEMBERED, -1).exec(),
    read: async room => (await redis.lrange(saidIn(room), 0, -1)).map(said => JSON.parse(said))
  }
}
