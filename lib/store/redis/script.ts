import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { LogBounds } from '../../log/log.js'
import type { StoreSettings } from '../store.js'

const OPERATIONS = [
  'append', 'attach', 'begin', 'count', 'detach', 'drained', 'end', 'heard', 'hold', 'join', 'leave', 'load', 'open', 'progress', 'quit', 'read',
  'settle', 'tick', 'update'
] as const

/** What can be asked of Redis: each has a file of its name, which tells its arguments and answer. */
export type Operation = typeof OPERATIONS[number]

export interface Script {
  readonly sha: string
  readonly text: string
}

/** The one script that does all operations, with the settings in front of them. */
export function loadScript (settings: StoreSettings, lease: number): Script {
  const { resumeTimeout, log, channelLog, maxSessions, maxSessionsPerPrincipal, maxWaitingMessages, maxIdempotencyKeys } = settings
  const constants = {
    RESUME: resumeTimeout,
    // A session is ended by its deadline; this is for what no node is left to end.
    TTL: resumeTimeout * 2 + 3_600_000,
    LEASE: lease,
    LOG: bounds(log),
    CHANNEL_LOG: bounds(channelLog),
    MAX_SESSIONS: number(maxSessions),
    MAX_PER_PRINCIPAL: number(maxSessionsPerPrincipal),
    MAX_WAITING: number(maxWaitingMessages),
    MAX_KEYS: number(maxIdempotencyKeys)
  }
  const text = [
    ...Object.entries(constants).map(([name, value]) => `local ${name} = ${value}\n`),
    ...['prelude', 'log', 'life'].map(source),
    // Only those that are asked for are made.
    'local function operation (name)\n',
    ...OPERATIONS.map(name => `if name == '${name}' then return function (ARGS)\n${source(name)}end end\n`),
    'end\n',
    source('main')
  ].join('')
  return { text, sha: createHash('sha1').update(text).digest('hex') }
}

function source (name: string): string {
  return readFileSync(new URL(`${name}.lua`, import.meta.url), 'utf8')
}

function bounds ({ entries, bytes, age }: LogBounds): string {
  return `{ entries = ${number(entries)}, bytes = ${number(bytes)}, age = ${age} }`
}

const number = (value: number): string => value === Infinity ? 'math.huge' : String(value)
