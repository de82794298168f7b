import type { Readable } from 'node:stream'
import { createParser } from 'eventsource-parser'
import type { FastifyInstance } from 'fastify'

/** An event that came down. */
export interface ReceivedEvent {
  /** Its name; `message` for the default event. */
  readonly event: string
  /** Its data, read as JSON. */
  readonly data: unknown
  /** Its id: send it as `Last-Event-ID` to resume after it. */
  readonly id: string | undefined
}

export interface InjectSessionOptions {
  /** Where the stream is. Default `/downward`. */
  url?: string
  /** Headers of the request: cookies, authorization, `last-event-id`, … Default: none. */
  headers?: Record<string, string>
}

/** A session opened without a socket. */
export interface InjectedSession extends AsyncIterableIterator<ReceivedEvent> {
  readonly id: string
  /** The data of the welcome event. */
  readonly welcome: Record<string, unknown>
  /** Response headers of the stream. */
  readonly headers: Record<string, unknown>
}

/**
 * Opens a session through `app.inject`, for an app's tests: waits for the welcome and yields the events after it.
 * Throws where the answer is no event stream. Injection has no connection to lose, so `onDisconnect` never runs: test
 * that on a socket. Closing the app, or the session, ends the iteration.
 */
export async function injectSession (app: FastifyInstance, { url = '/downward', headers = {} }: InjectSessionOptions = {}): Promise<InjectedSession> {
  const response = await app.inject({ method: 'GET', url, headers: { accept: 'text/event-stream', ...headers }, payloadAsStream: true })
  if (response.statusCode !== 200) throw new Error(`No session: ${url} answered ${response.statusCode}`)
  const events = parse(response.stream())
  const { value, done } = await events.next()
  if (done === true || value.event !== 'welcome') throw new Error(`No session: the stream of ${url} did not begin with a welcome`)
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
