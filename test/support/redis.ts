import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import type { Test } from 'tap'
import { watch, type Child } from './child.js'
import { freePort } from './free-port.js'
import { needsProgram } from './program.js'

/** Options of a test that needs Redis: skips it, in one line that says so, where it is not installed; in CI it fails then. */
export const needsRedis = needsProgram('redis-server')

export interface RedisOptions {
  /** Has every write on disk before it is answered, so that a restart loses nothing. Default: nothing is kept. */
  readonly durable?: boolean
  /** Port of the server that it copies. */
  readonly replicaOf?: number
}

/** A Redis of its own for a test, which ends with it. */
export class RedisServer {
  readonly port: number
  readonly #t: Test
  readonly #options: RedisOptions
  #folder = ''
  #child: Child | undefined
  #client: Redis | undefined

  constructor (t: Test, port: number, options: RedisOptions) {
    this.#t = t
    this.port = port
    this.#options = options
    t.teardown(() => { this.#leave() })
  }

  /** Starts it, or starts it again: with its data where it is durable, unless it is to come back empty. */
  async start ({ empty = false } = {}): Promise<void> {
    const { durable = false, replicaOf } = this.#options
    if (empty || this.#folder === '') this.#folder = this.#makeFolder()
    const settings = {
      port: this.port,
      bind: '127.0.0.1',
      dir: this.#folder,
      save: '',
      ...durable && { appendonly: 'yes', appendfsync: 'always' },
      ...replicaOf !== undefined && { replicaof: `127.0.0.1 ${replicaOf}` },
      // A replica gets its first copy at once.
      'repl-diskless-sync-delay': 0
    }
    const parameters = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, ...String(value).split(' ')])
    this.#child = watch(this.#t, spawn('redis-server', parameters, { detached: true }), 'redis-server')
    await this.#child.printed(/Ready to accept connections/)
  }

  /** Ends it at once, as by a crash. */
  async kill (): Promise<void> {
    this.#leave()
    await this.#child?.kill('SIGKILL')
  }

  /** Has it answer nobody, with its connections open, until `resume`. */
  pause (): void {
    this.#child?.process.kill('SIGSTOP')
  }

  resume (): void {
    this.#child?.process.kill('SIGCONT')
  }

  /** Asks it, over a connection of its own. */
  async ask (command: string, ...args: string[]): Promise<unknown> {
    this.#client ??= new Redis({ port: this.port, host: '127.0.0.1', connectionName: 'test' })
    return await this.#client.call(command, ...args)
  }

  /** Keeps what it has now; what it answers has it go back to that, as where a replica takes over that has not got more. */
  async snapshot (): Promise<() => Promise<void>> {
    const client = new Redis({ port: this.port, host: '127.0.0.1' })
    this.#t.teardown(() => { client.disconnect() })
    const kept = await Promise.all((await client.keys('*')).map(async key => [key, await client.dumpBuffer(key), await client.pttl(key)] as const))
    return async () => {
      const all = client.multi().flushdb()
      for (const [key, data, ttl] of kept) all.restore(key, Math.max(ttl, 0), data)
      await all.exec()
    }
  }

  /** A section of INFO, by field. */
  async info (section: string): Promise<Record<string, string>> {
    const text = String(await this.ask('INFO', section))
    return Object.fromEntries(Array.from(text.matchAll(/^([\w|]+):(.*?)\r?$/gm), ([, field = '', value = '']) => [field, value]))
  }

  #leave (): void {
    this.#client?.disconnect()
    this.#client = undefined
  }

  #makeFolder (): string {
    const folder = mkdtempSync(join(tmpdir(), 'redis-'))
    this.#t.teardown(() => { rmSync(folder, { recursive: true }) })
    return folder
  }
}

/** Starts a Redis on a free port. */
export async function startRedis (t: Test, options: RedisOptions = {}): Promise<RedisServer> {
  const server = new RedisServer(t, await freePort(), options)
  await server.start()
  return server
}
