import { createHash } from 'node:crypto'
import type { LogBounds } from '../../log/log.js'
import type { StoreSettings } from '../store.js'
import { readLua } from './lua.js'

const COMMANDS = [
  'ack_expiry', 'acquire', 'append', 'authorize', 'backlog', 'clear', 'commit_cursor', 'complete', 'count', 'create', 'deregister', 'end', 'enqueue', 'find_by_principal', 'find_call', 'get', 'heartbeat', 'history',
  'join', 'leave', 'members', 'read', 'reconcile_tickets', 'release', 'renew', 'run_cancel', 'run_end', 'run_find', 'run_reconcile', 'run_release', 'run_restart', 'run_start', 'run_unfollow', 'update'
] as const

/** The parts of the script that commands load with `require`: each returns a table of functions, or one function. */
const MODULES = ['calls', 'channels', 'log_removals', 'logs', 'message_queue', 'nodes', 'read_log', 'retention', 'rollback', 'runs']

/** A command of the store. Each has a file in `lua/commands`, whose first comment describes the arguments (ARGS) and the reply. */
export type CommandName = typeof COMMANDS[number]

/** A script that executes all commands. */
export interface Script {
  readonly sha: string
  readonly text: string
}

/** The script with the two behaviors that it can have when Redis has no memory left. */
export interface Scripts {
  /** Redis refuses it, so that no command is executed in part. */
  readonly refusedWhenFull: Script
  /** Redis executes it all the same: for commands that keep leases, and those that free memory. */
  readonly executedWhenFull: Script
}

/** The commands that add data. Others that write a little, such as `complete`, must succeed to free memory. */
const GROWING_COMMANDS: ReadonlySet<CommandName> = new Set(['append', 'create', 'enqueue', 'join', 'run_start', 'update'])

/** Whether Redis refuses a command when it has no memory left. */
export function isRefusedWhenFull (name: CommandName): boolean {
  return GROWING_COMMANDS.has(name)
}

/** About how many bytes of logs one command reads, so that it does not block Redis for long. */
const READ_BYTES = 262_144
/** The work after which a batch executes no further command. */
const MAX_WORK = 262_144

/** Returns the options that all nodes of a namespace must share, by name. */
export function getSharedOptions (settings: StoreSettings, partition: string): Record<string, string> {
  return { prefix: JSON.stringify(settings.prefix), partitions: partition, ...formatOptions(settings) }
}

/** Formats the options that the commands use, as Lua expressions. */
function formatOptions ({ resumeTimeout, log, channelLog, runLog, maxRuns, maxSessions, maxSessionsPerPrincipal, maxChannelsPerSession, maxWaitingMessages, maxIdempotencyKeys, maxResponseBytes }: StoreSettings): Record<string, string> {
  const formatBounds = ({ entries, bytes, age }: LogBounds): string => `{ entries = ${toLua(entries)}, bytes = ${toLua(bytes)}, age = ${toLua(age)} }`
  return {
    resumeTimeout: toLua(resumeTimeout),
    log: formatBounds(log),
    channelLog: formatBounds(channelLog),
    runLog: formatBounds(runLog),
    maxRuns: toLua(maxRuns),
    maxSessions: toLua(maxSessions),
    maxSessionsPerPrincipal: toLua(maxSessionsPerPrincipal),
    maxChannelsPerSession: toLua(maxChannelsPerSession),
    maxWaitingMessages: toLua(maxWaitingMessages),
    maxIdempotencyKeys: toLua(maxIdempotencyKeys),
    maxResponseBytes: toLua(maxResponseBytes)
  }
}

/** Creates the scripts for these settings. */
export function createScripts (settings: StoreSettings, lease: number, isCluster: boolean): Scripts {
  const constants = {
    ...formatOptions(settings),
    // Nodes close sessions at their deadline. The TTL removes them if no node is running.
    ttl: toLua(settings.resumeTimeout * 2 + 3_600_000),
    lease: toLua(lease),
    readBytes: toLua(READ_BYTES),
    maxWork: toLua(MAX_WORK),
    isCluster: String(isCluster),
    // In a cluster, PUBLISH would send a publication to all servers, SPUBLISH sends it only to those of its slot.
    publish: isCluster ? "'SPUBLISH'" : "'PUBLISH'",
    // Returned instead of a version if the sender must load the session to find out what has changed. Higher than every version.
    unknownVersion: '9e15'
  }
  // A table needs parentheses, so that `$LOG.bytes` is valid Lua.
  const literals = new Map(Object.entries(constants).map(([name, value]) => [`$${name.replace(/[A-Z]/g, '_$&').toUpperCase()}`, value.startsWith('{') ? `(${value})` : value]))
  const body = [
    readLua('lua/common'),
    // Redis runs the whole text each time, so only the functions of executed commands, and of the modules that they require, are
    // created. All in one function: creating a function takes time for each outer variable that it uses.
    'function create_function (name)\n',
    ...MODULES.map(name => `if name == '${name}' then\n${readLua(`lua/modules/${name}`)}end\n`),
    ...COMMANDS.map(name => `if name == 'commands/${name}' then return function (ARGS)\n${readLua(`lua/commands/${name}`)}end end\n`),
    'end\n',
    readLua('lua/dispatch')
  ].join('').replace(/\$[A-Z_]+/g, name => literals.get(name) as string)
  const createScript = (flags: string): Script => {
    const text = `#!lua${flags}\n${body}`
    return { text, sha: createHash('sha1').update(text).digest('hex') }
  }
  return { refusedWhenFull: createScript(''), executedWhenFull: createScript(' flags=allow-oom') }
}

const toLua = (value: number): string => value === Infinity ? 'math.huge' : String(value)
