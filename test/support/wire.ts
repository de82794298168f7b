import type { FastifyRequest } from 'fastify'
import { connect, type Socket } from 'node:net'
import type { Test } from 'tap'
import type { Session, Sessions } from '../../lib/index.js'
import { kStream } from '../../lib/sessions/session.js'
import { signal, until, within } from './wait.js'

/** A client as bare as can be: a socket, and what came over it, framing of the transfer included. */
export interface Wire {
  readonly socket: Socket
  readonly text: () => string
  readonly numbers: () => number[]
  waitFor: (text: string) => Promise<void>
  /** Begins to read, where it has not. */
  read: () => void
  readonly closed: Promise<void>
}

export interface WireOptions {
  readonly headers?: Record<string, string>
  /** Reads nothing until `read` is called: the system's buffers fill, and then the server's. */
  readonly stalled?: boolean
  /** Keeps only the beginning of what it reads. */
  readonly forgets?: boolean
  /** What it sends instead of one GET of the stream. */
  readonly request?: string
}

/** Connects, and asks for a stream. */
export function wire (t: Test, port: number, { headers = {}, stalled = false, forgets = false, request = get(headers) }: WireOptions = {}): Wire {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  t.teardown(() => { socket.destroy() })
  const chunks: string[] = []
  const looks = new Set<(text: string) => void>()
  const closed = signal()
  const text = (): string => {
    chunks.splice(0, Infinity, chunks.join(''))
    return chunks[0] ?? ''
  }
  socket.setEncoding('utf8').on('error', () => {}).on('close', () => { closed.resolve() })
  const read = (): void => {
    let before = ''
    socket.on('data', (chunk: string) => {
      if (!forgets || chunks.length < 2) chunks.push(chunk)
      for (const look of looks) look(before + chunk)
      before = chunk.slice(-1000)
    })
  }
  if (!stalled) read()
  socket.write(request)
  return {
    socket,
    text,
    numbers: () => numbersIn(text()),
    waitFor: async wanted => {
      const found = signal()
      const look = (text: string): void => { if (text.includes(wanted)) found.resolve() }
      looks.add(look)
      look(text())
      await within(found.promise, JSON.stringify(wanted))
      looks.delete(look)
    },
    read,
    closed: closed.promise
  }
}

/** Numbers in the data `{ n, … }` of the messages in a stream's text. */
export function numbersIn (text: string): number[] {
  return Array.from(text.matchAll(/^data: {"n":(\d+)/gm), ([, n]) => Number(n))
}

/** The text of a GET of the stream. */
export function get (headers: Record<string, string> = {}): string {
  return ['GET /downward HTTP/1.1', 'Host: localhost', ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`), '', ''].join('\r\n')
}

/** Sessions in order of their opening, with the server's end of the connection of each. */
export interface Opened {
  readonly session: Session
  readonly request: FastifyRequest
  readonly socket: Socket
}

/** Lists the sessions that are opened from now on. */
export function listOpened (sessions: Sessions): Opened[] {
  const opened: Opened[] = []
  sessions.addHook('onOpen', (session, request) => { opened.push({ session, request, socket: request.raw.socket }) })
  return opened
}

/** Waits until so many streams are open. */
export function streamsOpen (sessions: Sessions, count: number): Promise<void> {
  return until(() => sessions.stats().streams === count, `${count} open streams`, 20_000)
}

/** Calls `send`, for sessions whose clients do not read, until nothing has been written to any of them for a while; returns how often. */
export async function flood (sessions: readonly Session[], send: (n: number) => unknown): Promise<number> {
  const cursors = (): number => sessions.reduce((sum, session) => sum + session[kStream].cursor, 0)
  let sent = 0
  for (let still = 0; still < 20; sent++) {
    const before = cursors()
    send(sent + 1)
    await new Promise(resolve => { setTimeout(resolve, 1) })
    still = cursors() === before ? still + 1 : 0
  }
  return sent
}

/** What a numbered message carries, to be of a size. */
export const FILL = 'x'.repeat(60_000)
