import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import type { Test } from 'tap'
import { trackProcess, type TrackedProcess } from './child-process.js'
import { findFreePort } from './free-port.js'
import { needsProgram } from './needs-program.js'

/** Options of a test that needs Redis. Without Redis the test is skipped, or fails in CI. */
export const needsRedis = needsProgram('redis-server')

export interface RedisServerOptions {
  /** Writes every change to disk before the reply, so that a restart loses nothing. Default: false, a restart loses everything. */
  readonly durable?: boolean
  /** The port of the primary, if the server is a replica. */
  readonly replicaOf?: number
  /** Whether the server is to be a node of a Redis Cluster. */
  readonly isClusterNode?: boolean
}

/** A Redis server for one test. It is killed when the test ends. */
export class RedisServer {
  readonly port: number
  readonly #t: Test
  readonly #options: RedisServerOptions
  #folder = ''
  #child: TrackedProcess | undefined
  #client: Redis | undefined

  constructor (t: Test, port: number, options: RedisServerOptions) {
    this.#t = t
    this.port = port
    this.#options = options
    t.teardown(() => { this.#disconnect() })
  }

  /** Starts or restarts the server. A durable server keeps its data, unless `empty` is true. */
  async start ({ empty = false } = {}): Promise<void> {
    const { durable = false, replicaOf, isClusterNode = false } = this.#options
    if (empty || this.#folder === '') this.#folder = this.#makeFolder()
    const settings = {
      port: this.port,
      bind: '127.0.0.1',
      dir: this.#folder,
      save: '',
      ...durable && { appendonly: 'yes', appendfsync: 'always' },
      ...replicaOf !== undefined && { replicaof: `127.0.0.1 ${replicaOf}` },
      ...isClusterNode && { 'cluster-enabled': 'yes', 'cluster-node-timeout': 1000, 'cluster-require-full-coverage': 'no' },
      // A replica receives its first snapshot without delay.
      'repl-diskless-sync-delay': 0
    }
    const parameters = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, ...String(value).split(' ')])
    this.#child = trackProcess(this.#t, spawn('redis-server', parameters, { detached: true }), 'redis-server')
    await this.#child.waitForOutput(/Ready to accept connections/)
  }

  /** Kills the process, as a crash does. */
  async kill (): Promise<void> {
    this.#disconnect()
    await this.#child?.kill('SIGKILL')
  }

  /** Suspends the process until `resume`. Its connections stay open, but it does not reply. */
  pause (): void {
    this.#child?.process.kill('SIGSTOP')
  }

  resume (): void {
    this.#child?.process.kill('SIGCONT')
  }

  /** Sends a command over a separate connection and resolves with the reply. */
  async sendCommand (command: string, ...args: string[]): Promise<unknown> {
    this.#client ??= new Redis({ port: this.port, host: '127.0.0.1', connectionName: 'test' })
    return await this.#client.call(command, ...args)
  }

  /** Saves the current data. The returned function restores them, as a failover to a replica that is behind does. */
  async snapshot (): Promise<() => Promise<void>> {
    const client = new Redis({ port: this.port, host: '127.0.0.1' })
    this.#t.teardown(() => { client.disconnect() })
    const saved = await Promise.all((await client.keys('*')).map(async key => [key, await client.dumpBuffer(key), await client.pttl(key)] as const))
    return async () => {
      const transaction = client.multi().flushdb()
      for (const [key, data, ttl] of saved) transaction.restore(key, Math.max(ttl, 0), data)
      await transaction.exec()
    }
  }

  /** The fields of a section of INFO. */
  async info (section: string): Promise<Record<string, string>> {
    const text = String(await this.sendCommand('INFO', section))
    return Object.fromEntries(Array.from(text.matchAll(/^([\w|]+):(.*?)\r?$/gm), ([, field = '', value = '']) => [field, value]))
  }

  #disconnect (): void {
    this.#client?.disconnect()
    this.#client = undefined
  }

  #makeFolder (): string {
    const folder = mkdtempSync(join(tmpdir(), 'redis-'))
    this.#t.teardown(() => { rmSync(folder, { recursive: true }) })
    return folder
  }
}

/** Starts a Redis server on a free port. */
export async function startRedis (t: Test, options: RedisServerOptions = {}): Promise<RedisServer> {
  const server = new RedisServer(t, await findFreePort(), options)
  await server.start()
  return server
}
