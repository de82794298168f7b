import type { Test } from 'tap'
import type { Gap, Session, SseSessionsOptions } from '../../lib/index.js'
import { formatEventId, parseEventId } from '../../lib/wire/event-id.js'
import { serve, type Served } from './server.js'
import { openStream, type Stream, type StreamEvent } from './stream.js'
import { until } from './wait.js'

export interface Opened extends Served {
  readonly stream: Stream
  readonly session: Session
  /** What the onGap hook was told. */
  readonly told: Array<{ session: Session, gap: Gap }>
}

export async function opened (t: Test, options: SseSessionsOptions = {}): Promise<Opened> {
  const told: Opened['told'] = []
  const served = await serve(t, { heartbeatInterval: 5, heartbeatEvent: 'ping', ...options })
  served.sessions.addHook('onGap', (session, gap) => { told.push({ session, gap }) })
  const stream = await openStream(t, served.url)
  const session = await served.sessions.find(stream.sessionId)
  if (session === undefined) throw new Error('no session')
  return { ...served, stream, session, told }
}

/** Loses the stream; what is sent from now on is only in the log. */
export async function loseStream ({ session, stream }: Opened): Promise<void> {
  stream.destroy()
  await until(() => !session.connected, 'the loss of the stream')
}

/** Comes back with a position and takes all that is there: when it pings, the stream has no more. */
export async function resume (t: Test, { url, session }: Opened, position: number): Promise<StreamEvent[]> {
  const stream = await openStream(t, url, { headers: { 'last-event-id': formatEventId(session.id, position) } })
  await stream.waitFor(({ event }) => event === 'ping', 'a ping')
  return stream.events.filter(({ event }) => event !== 'ping')
}

/** An event's position. */
export const positionOf = ({ id = '' }: StreamEvent): number | undefined => parseEventId(id)?.position

/** The data of messages, the names of other events. */
export const brief = (events: StreamEvent[]): unknown[] => events.map(({ event, data }) => event === 'message' ? data : event)

/** The data of the first gap. */
export const gapOf = (events: StreamEvent[]): unknown => events.find(({ event }) => event === 'gap')?.data
