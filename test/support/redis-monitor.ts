import { createClient } from 'redis'
import type { Test } from 'tap'
import type { RedisServer } from './redis.js'

/** Calls back for each command that Redis executes from now on. `source` is the address of the client, or `lua`. */
export async function monitor (t: Test, redis: RedisServer, onCommand: (command: string[], source: string) => void): Promise<void> {
  const client = createClient({ socket: { port: redis.port, host: '127.0.0.1' }, name: 'test' })
  client.on('error', () => {})
  await client.connect()
  t.teardown(() => { client.destroy() })
  await client.monitor(line => {
    const [, source = '', command = ''] = /\[\d+ (.*?)\] (.*)$/s.exec(line) ?? []
    onCommand(Array.from(command.matchAll(/"((?:[^"\\]|\\.)*)"/gs), ([, argument = '']) => argument), source)
  })
}
