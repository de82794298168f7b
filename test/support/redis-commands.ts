import type { Redis } from 'ioredis'
import type { Test } from 'tap'
import type { RedisServer } from './redis-server.js'
import { deferred, waitUntil } from './wait.js'

export interface StoreCommand {
  readonly operation: string
  /** The sequence number; 0 if the command is not sequenced. */
  readonly sequence: number
  readonly args: readonly string[]
  /** The index of its deadline in the arguments of the Redis command. */
  readonly deadlineIndex: number
}

/** Parses the store commands in a Redis command; none if it is not a batch of store commands. */
export function parseStoreCommands (command: readonly string[]): StoreCommand[] {
  const commands: StoreCommand[] = []
  if (command[0]?.toUpperCase() !== 'EVALSHA') return commands
  for (let index = 8; index < command.length;) {
    const [operation = '', number, , count] = command.slice(index, index + 4)
    const end = index + 4 + Number(count)
    commands.push({ operation, sequence: Number(number), args: command.slice(index + 4, end), deadlineIndex: index + 2 })
    index = end
  }
  return commands
}

/** Calls back with the store commands of each Redis command before the client, or one that replaces it, sends it. */
export function interceptStoreCommands (client: Redis, callback: (storeCommands: StoreCommand[]) => unknown): void {
  const call = client.call.bind(client) as (...command: string[]) => Promise<unknown>
  const callWithCallback = async (...command: string[]): Promise<unknown> => {
    await callback(parseStoreCommands(command))
    return await call(...command)
  }
  const duplicate = client.duplicate.bind(client)
  const duplicateWithCallback = (...args: Parameters<typeof duplicate>): Redis => {
    const copy = duplicate(...args)
    interceptStoreCommands(copy, callback)
    return copy
  }
  Object.assign(client, { call: callWithCallback, duplicate: duplicateWithCallback })
}

/** Lets a client lose the reply to the first store command that matches, at a time that the test chooses. The store sends it again. */
export function loseFirstReply (client: Redis, matches: (command: StoreCommand) => boolean) {
  const call = client.call.bind(client) as (...command: string[]) => Promise<unknown>
  const gate = deferred()
  let attempts = 0
  let replies = 0
  const callAndLoseReply = async (...command: string[]): Promise<unknown> => {
    const isMatch = parseStoreCommands(command).some(matches)
    if (isMatch) attempts++
    const reply = await call(...command)
    // Not the first attempt: while the client reconnects, it may fail without a reply.
    if (isMatch && ++replies === 1) {
      await gate.promise
      throw new Error('Command timed out')
    }
    return reply
  }
  Object.assign(client, { call: callAndLoseReply })
  return {
    waitForCommand: () => waitUntil(() => attempts > 0, 'the command'),
    /** Loses the reply. If an earlier copy of the command was executed, there is no retry. */
    loseReplyNow: gate.resolve,
    /** Loses the reply, and waits for the reply to the retry. */
    loseReply: async (): Promise<void> => {
      const before = Math.max(replies, 1)
      gate.resolve()
      await waitUntil(() => replies > before, 'the retry')
    }
  }
}

/** Returns a function that executes the first Redis command with a store command a second time, as if an earlier connection delivered it late. */
export function repeatFirstCommand (client: Redis, redis: RedisServer, matches: (command: StoreCommand) => boolean): () => Promise<unknown> {
  const call = client.call.bind(client) as (...command: string[]) => Promise<unknown>
  let first: readonly [string, ...string[]] | undefined
  const callAndRecord = async (...command: string[]): Promise<unknown> => {
    if (parseStoreCommands(command).some(matches)) first ??= command as [string, ...string[]]
    return await call(...command)
  }
  Object.assign(client, { call: callAndRecord })
  return async () => await redis.sendCommand(...first as [string, ...string[]])
}

/** Records how many replies with a text each reply of the store contains. Redis is blocked while it collects them. */
export function countReplies (client: Redis, text: string): number[] {
  const call = client.call.bind(client) as (...command: string[]) => Promise<unknown>
  const counts: number[] = []
  const callAndCount = async (...command: string[]): Promise<unknown> => {
    const reply = await call(...command) as [failure: string, replies: readonly unknown[]]
    counts.push(reply[1].filter(each => JSON.stringify(each).includes(text)).length)
    return reply
  }
  Object.assign(client, { call: callAndCount })
  return counts
}

/** Delays the reply to the first store command with a name until the test ends. Unless `isSent` is true, the command does not arrive at Redis. */
export function delayFirstReply (t: Test, client: Redis, name: string, isSent: boolean): void {
  const call = client.call.bind(client) as (...command: string[]) => Promise<unknown>
  const { promise, resolve } = deferred()
  t.teardown(resolve)
  let isDelayed = false
  const callAndDelayReply = async (...command: string[]): Promise<unknown> => {
    if (isDelayed || !parseStoreCommands(command).some(({ operation }) => operation === name)) return await call(...command)
    isDelayed = true
    if (isSent) await call(...command)
    await promise
    throw new Error('lost')
  }
  Object.assign(client, { call: callAndDelayReply })
}
