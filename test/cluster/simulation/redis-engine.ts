import { createHash } from 'node:crypto'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import net, { type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

// The simulation replaces this function.
const { createConnection } = net

/** Encodes a value as a RESP bulk string. */
export const encodeBulk = (value: string | Buffer): Buffer => Buffer.concat([Buffer.from(`$${Buffer.byteLength(value)}\r\n`), Buffer.from(value), Buffer.from('\r\n')])

/** Encodes a command, or an array of bulk strings. `type` is `>` for a RESP3 push. */
export const encodeArray = (items: ReadonlyArray<string | Buffer>, type = '*'): Buffer => Buffer.concat([Buffer.from(`${type}${items.length}\r\n`), ...items.map(encodeBulk)])

/** Returns the index after the RESP value that starts at an index, or -1 if the value is incomplete. */
export function endOfValue (bytes: Buffer, start: number): number {
  const lineEnd = bytes.indexOf('\r\n', start)
  if (lineEnd === -1) return -1
  const type = String.fromCharCode(bytes[start] ?? 0)
  const length = Number(bytes.toString('latin1', start + 1, lineEnd))
  if ('$=!'.includes(type)) {
    const end = length === -1 ? lineEnd + 2 : lineEnd + 4 + length
    return end <= bytes.length ? end : -1
  }
  let end = lineEnd + 2
  if ('*%~>'.includes(type)) {
    for (let left = length * (type === '%' ? 2 : 1); left > 0 && end !== -1; left--) end = endOfValue(bytes, end)
  }
  return end
}

/** Parses an array of bulk strings. `undefined` if it is incomplete. */
export function parseArray (bytes: Buffer, start: number): { items: Buffer[], end: number } | undefined {
  const end = endOfValue(bytes, start)
  if (end === -1) return undefined
  const items: Buffer[] = []
  let at = bytes.indexOf('\r\n', start) + 2
  while (at < end) {
    const from = bytes.indexOf('\r\n', at) + 2
    const next = endOfValue(bytes, at)
    items.push(bytes.subarray(from, next - 2))
    at = next
  }
  return { items, end }
}

export interface Publication {
  readonly channel: string
  readonly message: Buffer
}

export interface Reply {
  readonly bytes: Buffer
  readonly publications: readonly Publication[]
}

/**
 * A script with the virtual time, which is its last key. It returns its publications instead of publishing them, so that it is
 * known which publications it caused, and in which order.
 */
// The first line of a script contains its flags.
const wrapScript = (script: string, isWorkLimited: boolean): string => `${script.slice(0, script.indexOf('\n'))}
local time = tonumber(KEYS[#KEYS])
local published = {}
local replaced = {
  TIME = function () return { string.format('%d', math.floor(time / 1000000)), string.format('%d', time % 1000000) } end,
  PUBLISH = function (channel, message)
    published[#published + 1] = channel
    published[#published + 1] = message
    return 0
  end
}
replaced.SPUBLISH = replaced.PUBLISH
local server = redis
local function replace (name)
  local call = server[name]
  return function (command, ...)
    local replacement = replaced[command]
    if replacement then return replacement(...) end
    return call(command, ...)
  end
end
local redis = setmetatable({ call = replace('call'), pcall = replace('pcall') }, { __index = server })
local done, result = pcall(function ()${script.slice(script.indexOf('\n')).replace(/^local MAX_WORK = .*$/m, line => isWorkLimited ? 'local MAX_WORK = 1' : line)}
end)
if not done then result = { err = type(result) == 'table' and result.err or 'ERR ' .. tostring(result) } end
if result == nil then result = false end
return { result, published }
`

/** A Redis server that executes one command at a time. */
export class RedisEngine {
  /** The number of commands so far. */
  commands = 0
  /** Whether the scripts execute no further command after one that has read entries. */
  isWorkLimited = false
  readonly #child: ChildProcess
  readonly #folder: string
  readonly #connections = new Map<number, Socket>()
  /** SHA-1 of a script, and whether its work is limited → SHA-1 of the wrapped script. */
  readonly #scripts = new Map<string, string>()
  /** The scripts that the simulated server has loaded. */
  readonly #loaded = new Set<string>()

  private constructor (child: ChildProcess, folder: string) {
    this.#child = child
    this.#folder = folder
  }

  /** Starts a server, which ends with this process. */
  static async start (): Promise<RedisEngine> {
    const folder = mkdtempSync(join(tmpdir(), 'simulation-'))
    const path = join(folder, 'socket')
    // A larger hash would have a random order, so a seed would not give the same history.
    const child = spawn('redis-server', ['--hash-max-listpack-value', '1048576', '--hash-max-listpack-entries', '65536', '--port', '0', '--unixsocket', path, '--save', '', '--appendonly', 'no', '--dir', folder], { stdio: ['ignore', 'pipe', 'inherit'] })
    const engine = new RedisEngine(child, folder)
    process.once('exit', () => { engine.#kill() })
    for await (const line of createInterface({ input: child.stdout as NonNullable<typeof child.stdout> })) if (line.includes('ready to accept connections')) break
    child.stdout?.resume()
    for (const protocol of [2, 3]) {
      const socket = createConnection(path)
      await once(socket, 'connect')
      engine.#connections.set(protocol, socket)
      await engine.call(protocol, ['HELLO', String(protocol)])
    }
    return engine
  }

  #kill (): void {
    this.#child.kill('SIGKILL')
    rmSync(this.#folder, { recursive: true, force: true })
  }

  /** Removes all data and all scripts. */
  async reset (): Promise<void> {
    await this.call(2, ['FLUSHALL'])
    this.#loaded.clear()
  }

  /** Unloads all scripts, as a restart does. */
  unloadScripts (): void {
    this.#loaded.clear()
  }

  /** The CPU time that the server has used, in seconds. */
  async cpuSeconds (): Promise<number> {
    const info = String(await this.call(2, ['INFO', 'cpu']))
    return ['sys', 'user'].reduce((sum, kind) => sum + Number(new RegExp(`used_cpu_${kind}:([\\d.]+)`).exec(info)?.[1]), 0)
  }

  /** Executes a command as it is. */
  async call (protocol: number, command: ReadonlyArray<string | Buffer>): Promise<Buffer> {
    this.commands++
    const socket = this.#connections.get(protocol) as Socket
    socket.write(encodeArray(command))
    let bytes: Buffer = Buffer.alloc(0)
    while (endOfValue(bytes, 0) === -1) {
      const [chunk] = await once(socket, 'data') as [Buffer]
      bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk])
    }
    return bytes
  }

  /** Executes a command at a virtual time, in microseconds. */
  async execute (protocol: number, command: readonly Buffer[], microseconds: number): Promise<Reply> {
    const [name, argument = Buffer.alloc(0), second, ...rest] = command
    switch (String(name).toUpperCase()) {
      case 'SCRIPT': {
        if (String(argument).toUpperCase() !== 'LOAD') break
        const sha = await this.#load(String(second))
        this.#loaded.add(sha)
        return { bytes: encodeBulk(sha), publications: [] }
      }
      case 'EVALSHA':
      case 'EVAL': {
        let sha = String(argument)
        if (String(name).toUpperCase() === 'EVAL') sha = await this.#load(sha)
        else if (!this.#loaded.has(sha)) return { bytes: Buffer.from('-NOSCRIPT No matching script. Please use EVAL.\r\n'), publications: [] }
        const count = Number(second)
        const bytes = await this.call(protocol, ['EVALSHA', this.#scripts.get(this.#wrappedKey(sha)) as string, String(count + 1), ...rest.slice(0, count), String(microseconds), ...rest.slice(count)])
        // An error of the wrapper itself.
        if (bytes[0] === 0x2d) throw new Error(String(bytes))
        const start = bytes.indexOf('\r\n') + 2
        const end = endOfValue(bytes, start)
        const items = parseArray(bytes, end)?.items ?? []
        const publications: Publication[] = []
        for (let index = 0; index < items.length; index += 2) publications.push({ channel: String(items[index]), message: items[index + 1] as Buffer })
        return { bytes: bytes.subarray(start, end), publications }
      }
      case 'PUBLISH':
      case 'SPUBLISH':
        return { bytes: Buffer.from(':0\r\n'), publications: [{ channel: String(argument), message: second as Buffer }] }
    }
    return { bytes: await this.call(protocol, command), publications: [] }
  }

  /** The keys without an expiry, with the number of their elements. */
  async persistentKeys (): Promise<Map<string, number>> {
    const bytes = await this.call(2, ['EVAL', `
      local found = {}
      local length = { hash = 'HLEN', zset = 'ZCARD', list = 'LLEN', set = 'SCARD', stream = 'XLEN', string = 'STRLEN' }
      for _, key in ipairs(redis.call('KEYS', '*')) do
        if redis.call('PTTL', key) == -1 then
          found[#found + 1] = key
          found[#found + 1] = tostring(redis.call(length[redis.call('TYPE', key).ok], key))
        end
      end
      return found`, '0'])
    const items = parseArray(bytes, 0)?.items.map(String) ?? []
    return new Map(items.flatMap((item, index) => index % 2 === 0 ? [[item, Number(items[index + 1])] as const] : []))
  }

  /** Describes each item in the queues of open sessions, except those of nodes without a lease, and each session whose count of messages differs from its list. */
  async queuedMessages (): Promise<string[]> {
    const bytes = await this.call(2, ['EVAL', `
      local found = {}
      for _, key in ipairs(redis.call('KEYS', '*:s:*')) do
        if redis.call('TYPE', key).ok == 'hash' and redis.call('HEXISTS', key, 'startPosition') == 1 and redis.call('HEXISTS', key, 'closeReason') == 0 then
          local queued = 0
          local function check (item)
            if redis.call('ZSCORE', string.match(key, '^{.-}') .. ':nodes', string.match(item, '^%S+')) then found[#found + 1] = key .. ' has ' .. item end
          end
          for _, item in ipairs(redis.call('LRANGE', key .. ':queue', 0, -1)) do
            queued = queued + tonumber(string.match(item, '%d+$'))
            check(item)
          end
          local first = redis.call('HGET', key, 'first')
          if first then check(first) end
          local count = tonumber(redis.call('HGET', key, 'messagesInList') or 0)
          if count ~= queued then found[#found + 1] = key .. ' counts ' .. count .. ' and has ' .. queued end
        end
      end
      return found`, '0'])
    return parseArray(bytes, 0)?.items.map(String) ?? []
  }

  /** What is left of expired sessions whose `onClose` hooks have not been confirmed. */
  async closingSessions (): Promise<string[]> {
    const bytes = await this.call(2, ['EVAL', `
      local found = redis.call('KEYS', '*:e:*')
      for _, key in ipairs(redis.call('KEYS', '*:closing')) do
        for _, id in ipairs(redis.call('ZRANGE', key, 0, -1)) do found[#found + 1] = key .. ' ' .. id end
      end
      return found`, '0'])
    return parseArray(bytes, 0)?.items.map(String) ?? []
  }

  #wrappedKey (sha: string): string {
    return `${sha} ${this.isWorkLimited}`
  }

  async #load (script: string): Promise<string> {
    const sha = createHash('sha1').update(script).digest('hex')
    if (!this.#scripts.has(this.#wrappedKey(sha))) {
      const bytes = await this.call(2, ['SCRIPT', 'LOAD', wrapScript(script, this.isWorkLimited)])
      const [wrapped] = /[0-9a-f]{40}/.exec(String(bytes)) ?? []
      if (wrapped === undefined) throw new Error(String(bytes))
      this.#scripts.set(this.#wrappedKey(sha), wrapped)
    }
    return sha
  }
}
