import Fastify from 'fastify'
import type { Session, Sessions } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { MemorySink, readEvents, type ReceivedEvent } from './memory-sink.js'

const logger = Fastify({ logger: false }).log

/** A stream of a session that writes to memory. */
export class MemoryStream {
  readonly sink: MemorySink
  /** The events after the welcome that were read so far. */
  readonly events: ReceivedEvent[] = []
  /** The position that the welcome has as id. */
  readonly cursor: number

  constructor (sink: MemorySink, cursor: number) {
    this.sink = sink
    this.cursor = cursor
  }

  /** Reads what was written since the last call, and returns all events. */
  read (): ReceivedEvent[] {
    for (const event of readEvents(this.sink)) if (event.event !== 'welcome') this.events.push(event)
    return this.events
  }

  /** The data of all messages that were received. */
  messages (): unknown[] {
    return this.read().filter(({ event }) => event === 'message').map(({ data }) => data)
  }
}

/** Creates the time of a request that is certainly older than the next one, whatever the clocks of the nodes are. */
export const createEarlierTime = (): number => performance.now() - 60_000

/** Attaches a stream to a session as the route does. With a cursor it resumes the session. If `stalls` is true, the client blocks after every write. `requestedAt` is the time of the request. */
export async function attachMemoryStream (sessions: Sessions, session: Session, cursor?: number, stalls = false, requestedAt = performance.now()): Promise<MemoryStream> {
  const resumed = cursor !== undefined
  if (resumed) session[kInternals].retainForResume()
  const sink = new MemorySink(stalls)
  const from = cursor ?? session[kInternals].cursor
  const newestPosition = await sessions.acquireStream(session, from, requestedAt)
  if (newestPosition === undefined) throw new Error('the session does not exist any more')
  session[kInternals].setStream({ sink, cursor: from, newestPosition, welcome: '{}', resumed, requestedAt, logger })
  return new MemoryStream(sink, from)
}

/** Opens a session, or throws if a limit is reached. */
export async function openSession (sessions: Sessions, principal?: string): Promise<Session> {
  const session = await sessions.open(principal)
  if (session === undefined) throw new Error('there are too many sessions')
  return session
}

/** Finds a session in the registry of a node. */
export async function findSession (sessions: Sessions, { id, principal }: { id: string, principal?: string | undefined }): Promise<Session> {
  const session = await sessions.findForResume(id, principal)
  if (session === undefined) throw new Error('there is no such session')
  return session
}
