import Fastify from 'fastify'
import type { Session, Sessions } from '../../lib/index.js'
import { kStream } from '../../lib/sessions/session.js'
import { MemorySink, received, type Received } from './memory-sink.js'

const logger = Fastify({ logger: false }).log

/** A stream of a session, whose client reads all that is written. */
export class MemoryStream {
  readonly sink: MemorySink
  /** What has come after the welcome. */
  readonly events: Received[] = []
  /** The position of the welcome. */
  readonly cursor: number

  constructor (sink: MemorySink, cursor: number) {
    this.sink = sink
    this.cursor = cursor
  }

  read (): Received[] {
    for (const event of received(this.sink)) if (event.event !== 'welcome') this.events.push(event)
    return this.events
  }

  /** The data of the messages that have come. */
  messages (): unknown[] {
    return this.read().filter(({ event }) => event === 'message').map(({ data }) => data)
  }
}

/** Opens a stream of a session that was just made, or that a process is to resume, as the route does. Its client may ask to wait after every write. */
export async function stream (sessions: Sessions, session: Session, cursor?: number, stalls = false): Promise<MemoryStream> {
  const resumed = cursor !== undefined
  const generation = resumed ? session[kStream].retainForResume() : 0
  const sink = new MemorySink(stalls)
  const from = cursor ?? session[kStream].cursor
  const head = await sessions.acquireStream(session, from)
  if (head === undefined) throw new Error('the session is gone')
  session[kStream].attach({ sink, cursor: from, head, welcome: '{}', resumed, generation, logger })
  return new MemoryStream(sink, from)
}

export async function openSession (sessions: Sessions, principal?: string): Promise<Session> {
  const session = await sessions.open(principal)
  if (session === undefined) throw new Error('there are too many sessions')
  return session
}

/** The handle that a process has of a session. */
export async function handleOf (sessions: Sessions, { id, principal }: { id: string, principal?: string | undefined }): Promise<Session> {
  const session = await sessions.findForResume(id, principal)
  if (session === undefined) throw new Error('there is no such session')
  return session
}
