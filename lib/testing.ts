import type { Readable } from 'node:stream'
import { createParser } from 'eventsource-parser'
import type { FastifyInstance } from 'fastify'

/** An event that the test has received. */
export interface ReceivedEvent {
  /** Name of the event; `message` for the default event. */
  readonly event: string
  /** Data of the event, parsed as JSON. */
  readonly data: unknown
  /** Id of the event. Send it as `Last-Event-ID` to resume after this event. */
  readonly id: string | undefined
}

/** Options of {@link injectSession}. */
export interface InjectSessionOptions {
  /** Path of the stream. Default: `/downward`. */
  url?: string
  /** Headers of the request: cookies, authorization, `last-event-id`, … Default: none. */
  headers?: Record<string, string>
}

/** A session that was opened without a socket. Iterate over it to receive its events. */
export interface InjectedSession extends AsyncIterableIterator<ReceivedEvent> {
  /** The session id. */
  readonly id: string
  /** The data of the welcome event. */
  readonly welcome: Record<string, unknown>
  /** Response headers of the stream. */
  readonly headers: Record<string, unknown>
}

/**
 * Opens a session with `app.inject`, for the tests of an app. Resolves when the welcome event has arrived; iterate over the
 * result to receive the events that follow. The iteration ends when the app or the session is closed. Rejects if the
 * response is not an event stream. An injected request has no connection, so `onDisconnect` never runs: test it with a socket.
 */
export async function injectSession (app: FastifyInstance, { url = '/downward', headers = {} }: InjectSessionOptions = {}): Promise<InjectedSession> {
  const response = await app.inject({ method: 'GET', url, headers: { accept: 'text/event-stream', ...headers }, payloadAsStream: true })
  if (response.statusCode !== 200) throw new Error(`No session was opened: ${url} responded with ${response.statusCode}; check the options "url" and "headers"`)
  const events = parse(response.stream())
  const { value, done } = await events.next()
  if (done === true || value.event !== 'welcome') throw new Error(`No session was opened: the stream of ${url} did not begin with a welcome event`)
  const welcome = value.data as Record<string, unknown>
  return Object.assign(events, { id: String(welcome.sessionId), welcome, headers: response.headers })
}

async function * parse (body: Readable): AsyncGenerator<ReceivedEvent, undefined> {
  const parsed: ReceivedEvent[] = []
  const parser = createParser({
    onEvent: ({ event = 'message', data, id }) => { parsed.push({ event, data: JSON.parse(data), id }) }
  })
  for await (const chunk of body.setEncoding('utf8')) {
    parser.feed(chunk)
    yield * parsed.splice(0)
  }
}
