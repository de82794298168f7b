import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { LogBounds } from '../log.js'
import type { StoreSettings } from '../store.js'

/** Each script, and what it needs of the functions that several share. */
const NEEDS = {
  append: ['log'],
  attach: ['log', 'life'],
  begin: [],
  count: [],
  detach: ['life'],
  drained: [],
  end: ['life'],
  hold: ['life'],
  join: [],
  leave: ['life'],
  load: [],
  open: ['life'],
  progress: [],
  quit: [],
  read: ['log'],
  settle: [],
  tick: ['life'],
  update: []
} as const

export interface Script {
  readonly sha: string
  readonly text: string
}

export type Scripts = Readonly<Record<keyof typeof NEEDS, Script>>

/** The scripts, with the settings in front of them. */
export function loadScripts (settings: StoreSettings, lease: number): Scripts {
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
  const header = Object.entries(constants).map(([name, value]) => `local ${name} = ${value}\n`).join('') + source('prelude')
  return Object.fromEntries(Object.entries(NEEDS).map(([name, needs]) => {
    const text = `${header}${needs.map(source).join('')}local function main ()\n${source(name)}end\nlocal reply = main()\ncommit()\nreturn reply\n`
    return [name, { text, sha: createHash('sha1').update(text).digest('hex') }]
  })) as Scripts
}

function source (name: string): string {
  return readFileSync(new URL(`${name}.lua`, import.meta.url), 'utf8')
}

function bounds ({ entries, bytes, age }: LogBounds): string {
  return `{ entries = ${number(entries)}, bytes = ${number(bytes)}, age = ${age} }`
}

const number = (value: number): string => value === Infinity ? 'math.huge' : String(value)
