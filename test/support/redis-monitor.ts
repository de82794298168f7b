import { createClient } from 'redis'
import type { Test } from 'tap'
import type { RedisServer } from './redis.js'

/** Tells of each command that Redis does from now on; `source` is the address of who has sent it, or `lua`. */
export async function monitor (t: Test, redis: RedisServer, told: (command: string[], source: string) => void): Promise<void> {
  const client = createClient({ socket: { port: redis.port, host: '127.0.0.1' }, name: 'test' })
  client.on('error', () => {})
  await client.connect()
  t.teardown(() => { client.destroy() })
  await client.monitor(line => {
    const [, source = '', command = ''] = /\[\d+ (.*?)\] (.*)$/s.exec(line) ?? []
    told(Array.from(command.matchAll(/"((?:[^"\\]|\\.)*)"/gs), ([, argument = '']) => argument), source)
  })
}
