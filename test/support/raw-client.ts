import type { FastifyRequest } from 'fastify'
import { connect, type Socket } from 'node:net'
import type { Test } from 'tap'
import type { Session, Sessions } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { deferred, waitUntil, withTimeout } from './wait.js'

/** A client that is only a socket. Its text is everything received, with the head of the response and without its chunked framing. */
export interface RawClient {
  readonly socket: Socket
  readonly text: () => string
  /** Everything received, with the chunked framing. */
  readonly rawText: () => string
  readonly numbers: () => number[]
  waitFor: (text: string) => Promise<void>
  /** Starts to read, if the client was stalled. */
  read: () => void
  readonly closed: Promise<void>
}

export interface RawClientOptions {
  readonly headers?: Record<string, string>
  /** Reads nothing until `read` is called, so the buffers of the operating system fill first, then those of the server. */
  readonly stalled?: boolean
  /** Keeps only the start of what it reads. */
  readonly discards?: boolean
  /** The text to send instead of one GET of the stream. */
  readonly request?: string
}

/** Connects and requests a stream. */
export function openRawClient (t: Test, port: number, { headers = {}, stalled = false, discards = false, request = formatGet(headers) }: RawClientOptions = {}): RawClient {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  t.teardown(() => { socket.destroy() })
  const chunks: string[] = []
  const checks = new Set<(text: string) => void>()
  const closed = deferred()
  const rawText = (): string => {
    chunks.splice(0, Infinity, chunks.join(''))
    return chunks[0] ?? ''
  }
  const text = (): string => removeFraming(rawText())
  socket.setEncoding('utf8').on('error', () => {}).on('close', () => { closed.resolve() })
  const read = (): void => {
    let previous = ''
    socket.on('data', (chunk: string) => {
      if (!discards || chunks.length < 2) chunks.push(chunk)
      for (const check of checks) check(removeFraming(previous + chunk))
      previous = chunk.slice(-1000)
    })
  }
  if (!stalled) read()
  socket.write(request)
  return {
    socket,
    text,
    rawText,
    numbers: () => parseNumbers(text()),
    waitFor: async wanted => {
      const found = deferred()
      const check = (text: string): void => { if (text.includes(wanted)) found.resolve() }
      checks.add(check)
      check(text())
      await withTimeout(found.promise, JSON.stringify(wanted))
      checks.delete(check)
    },
    read,
    closed: closed.promise
  }
}

/** Removes the chunked framing from the text of responses. A stream contains no CR, and each of its chunks ends with a blank line. */
export function removeFraming (text: string): string {
  return text.replace(/(?<=\r\n\r\n)[\da-f]+\r\n/g, '').replace(/(?<=\n\n)\r\n(?:0\r\n\r\n|[\da-f]+\r\n)?/g, '')
}

/** Parses the numbers in the data `{ n, … }` of messages in the text of a stream. */
export function parseNumbers (text: string): number[] {
  return Array.from(text.matchAll(/^data: {"n":(\d+)/gm), ([, n]) => Number(n))
}

/** The text of a GET request for a stream. */
export function formatGet (headers: Record<string, string> = {}): string {
  return ['GET /downward HTTP/1.1', 'Host: localhost', ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`), '', ''].join('\r\n')
}

/** A session, the request that opened it, and the socket of the server. */
export interface OpenedSession {
  readonly session: Session
  readonly request: FastifyRequest
  readonly socket: Socket
}

/** Records the sessions that are opened from now on, in order. */
export function recordOpenedSessions (sessions: Sessions): OpenedSession[] {
  const opened: OpenedSession[] = []
  sessions.addHook('onOpen', (session, request) => { opened.push({ session, request, socket: request.raw.socket }) })
  return opened
}

/** Waits until exactly so many streams are open. */
export function waitForStreams (sessions: Sessions, count: number): Promise<void> {
  return waitUntil(() => sessions.stats().streams === count, `${count} open streams`)
}

/** Calls `send` until the streams of clients that do not read have stopped writing. Returns the number of calls. */
export async function sendUntilStalled (sessions: readonly Session[], send: (n: number) => unknown): Promise<number> {
  const cursors = (): number => sessions.reduce((sum, session) => sum + session[kInternals].cursor, 0)
  let sent = 0
  for (let unchanged = 0; unchanged < 20; sent++) {
    const before = cursors()
    send(sent + 1)
    await new Promise(resolve => { setTimeout(resolve, 1) })
    unchanged = cursors() === before ? unchanged + 1 : 0
  }
  return sent
}

/** Padding for numbered messages. */
export const PADDING = 'x'.repeat(60_000)
