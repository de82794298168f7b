import type { Test } from 'tap'
import type { Gap, Session, SseSessionsOptions } from '../../lib/index.js'
import { formatEventId, parseEventId } from '../../lib/wire/event-id.js'
import { serve, type TestServer } from './server.js'
import { openStream, type ClientStream, type StreamEvent } from './http-client.js'
import { waitUntil } from './wait.js'

export interface ServedSession extends TestServer {
  readonly stream: ClientStream
  readonly session: Session
  /** The arguments of each onGap hook. */
  readonly reportedGaps: Array<{ session: Session, gap: Gap }>
}

/** Starts a server and opens one session. Heartbeats are named events, so that `resumeAfter` can detect the end of a replay. */
export async function serveSession (t: Test, options: SseSessionsOptions = {}): Promise<ServedSession> {
  const reportedGaps: ServedSession['reportedGaps'] = []
  const served = await serve(t, { heartbeatInterval: 5, heartbeatEvent: 'ping', ...options })
  served.sessions.addHook('onGap', (session, gap) => { reportedGaps.push({ session, gap }) })
  const stream = await openStream(t, served.url)
  const session = await served.sessions.find(stream.sessionId)
  if (session === undefined) throw new Error('no session')
  return { ...served, stream, session, reportedGaps }
}

/** Destroys the stream and waits for the disconnect, so that later messages are only in the log. */
export async function destroyStream ({ session, stream }: ServedSession): Promise<void> {
  stream.destroy()
  await waitUntil(() => !session.connected, 'the disconnect')
}

/** Resumes after a position and returns all events. A heartbeat is only sent when there is nothing left to send. */
export async function resumeAfter (t: Test, { url, session }: ServedSession, position: number): Promise<StreamEvent[]> {
  const stream = await openStream(t, url, { headers: { 'last-event-id': formatEventId(session.id, position) } })
  await stream.waitFor(({ event }) => event === 'ping', 'a ping')
  return stream.events.filter(({ event }) => event !== 'ping')
}

/** The position in the id of an event. */
export const positionOf = ({ id = '' }: StreamEvent): number | undefined => parseEventId(id)?.position

/** Reduces events to the data of messages and the names of other events. */
export const summarize = (events: StreamEvent[]): unknown[] => events.map(({ event, data }) => event === 'message' ? data : event)

/** The data of the first gap event. */
export const findGap = (events: StreamEvent[]): unknown => events.find(({ event }) => event === 'gap')?.data
