import { createHash } from 'node:crypto'
import type { LogBounds } from '../../log/log.js'
import type { StoreSettings } from '../store.js'
import { readLua } from './lua.js'

const COMMANDS = [
  'ack_expiry', 'acquire', 'append', 'backlog', 'commit_cursor', 'complete', 'count', 'create', 'deregister', 'end', 'enqueue', 'get', 'heartbeat',
  'join', 'leave', 'read', 'release', 'renew', 'update'
] as const

/** A command of the store. Each has a file in `lua/commands`, which starts with its arguments and its reply. */
export type CommandName = typeof COMMANDS[number]

/** The script that executes all commands. */
export interface Script {
  readonly sha: string
  readonly text: string
}

/** About how many bytes of logs one command reads, so that it does not block Redis for long. */
const READ_BYTES = 262_144

/** The options that all nodes of a namespace must share, by name. */
export function sharedOptions ({ resumeTimeout, log, channelLog, maxSessions, maxSessionsPerPrincipal, maxWaitingMessages, maxIdempotencyKeys, maxResponseBytes }: StoreSettings): Record<string, string> {
  const formatBounds = ({ entries, bytes, age }: LogBounds): string => `{ entries = ${toLua(entries)}, bytes = ${toLua(bytes)}, age = ${toLua(age)} }`
  return {
    resumeTimeout: toLua(resumeTimeout),
    log: formatBounds(log),
    channelLog: formatBounds(channelLog),
    maxSessions: toLua(maxSessions),
    maxSessionsPerPrincipal: toLua(maxSessionsPerPrincipal),
    maxWaitingMessages: toLua(maxWaitingMessages),
    maxIdempotencyKeys: toLua(maxIdempotencyKeys),
    maxResponseBytes: toLua(maxResponseBytes)
  }
}

/** Creates the script, which starts with the settings as constants. */
export function createScript (settings: StoreSettings, lease: number): Script {
  const constants = {
    ...sharedOptions(settings),
    // Nodes close sessions at their deadline. The TTL is for sessions that no node is left to close.
    ttl: toLua(settings.resumeTimeout * 2 + 3_600_000),
    lease: toLua(lease),
    readBytes: toLua(READ_BYTES)
  }
  const text = [
    ...Object.entries(constants).map(([name, value]) => `local ${name.replace(/[A-Z]/g, '_$&').toUpperCase()} = ${value}\n`),
    ...['common', 'log', 'retention'].map(name => readLua(`lua/lib/${name}`)),
    // Creates only the functions of the commands that are executed.
    'local function get_command (name)\n',
    ...COMMANDS.map(name => `if name == '${name}' then return function (ARGS)\n${readLua(`lua/commands/${name}`)}end end\n`),
    'end\n',
    readLua('lua/lib/dispatch')
  ].join('')
  return { text, sha: createHash('sha1').update(text).digest('hex') }
}

const toLua = (value: number): string => value === Infinity ? 'math.huge' : String(value)
