import type { Test } from 'tap'
import type { Gap, Session, SseSessionsOptions } from '../../lib/index.js'
import { formatEventId, parseEventId } from '../../lib/wire/event-id.js'
import { serve, type Served } from './server.js'
import { openStream, type Stream, type StreamEvent } from './stream.js'
import { until } from './wait.js'

export interface Opened extends Served {
  readonly stream: Stream
  readonly session: Session
  /** The arguments of each onGap hook. */
  readonly told: Array<{ session: Session, gap: Gap }>
}

/** Starts a server and opens one session. Heartbeats are named events, so that `resume` can detect the end of a replay. */
export async function opened (t: Test, options: SseSessionsOptions = {}): Promise<Opened> {
  const told: Opened['told'] = []
  const served = await serve(t, { heartbeatInterval: 5, heartbeatEvent: 'ping', ...options })
  served.sessions.addHook('onGap', (session, gap) => { told.push({ session, gap }) })
  const stream = await openStream(t, served.url)
  const session = await served.sessions.find(stream.sessionId)
  if (session === undefined) throw new Error('no session')
  return { ...served, stream, session, told }
}

/** Destroys the stream and waits for the disconnect, so that later messages are only in the log. */
export async function loseStream ({ session, stream }: Opened): Promise<void> {
  stream.destroy()
  await until(() => !session.connected, 'the disconnect')
}

/** Resumes after a position and returns all events. A heartbeat is only sent when there is nothing left to send. */
export async function resume (t: Test, { url, session }: Opened, position: number): Promise<StreamEvent[]> {
  const stream = await openStream(t, url, { headers: { 'last-event-id': formatEventId(session.id, position) } })
  await stream.waitFor(({ event }) => event === 'ping', 'a ping')
  return stream.events.filter(({ event }) => event !== 'ping')
}

/** The position in the id of an event. */
export const positionOf = ({ id = '' }: StreamEvent): number | undefined => parseEventId(id)?.position

/** Reduces events to the data of messages and the names of other events. */
export const brief = (events: StreamEvent[]): unknown[] => events.map(({ event, data }) => event === 'message' ? data : event)

/** The data of the first gap event. */
export const gapOf = (events: StreamEvent[]): unknown => events.find(({ event }) => event === 'gap')?.data
