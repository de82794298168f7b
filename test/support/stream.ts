import { createParser } from 'eventsource-parser'
import type { Test } from 'tap'
import { Agent, request, type Dispatcher } from 'undici'
import { signal, within } from './wait.js'

export interface StreamEvent {
  readonly event: string
  /** Parsed as JSON. */
  readonly data: unknown
  readonly id: string | undefined
}

/** A downward stream over a real socket. */
export interface Stream {
  readonly status: number
  readonly headers: Record<string, string | string[] | undefined>
  /** Everything received so far, as text. */
  readonly raw: () => string
  /** All events received so far. */
  readonly events: StreamEvent[]
  readonly sessionId: string
  /** Resolves with the first event, received earlier or later, for which `test` returns true. */
  waitFor: (test: (event: StreamEvent) => boolean, what?: string) => Promise<StreamEvent>
  /** Resolves when the body has closed, with or without an error. */
  readonly ended: Promise<void>
  /** Destroys the socket. */
  destroy: () => void
  /** The body of the response. A test can pause and resume it. */
  readonly body: Dispatcher.ResponseData['body']
}

export interface OpenOptions {
  readonly headers?: Record<string, string>
  readonly dispatcher?: Dispatcher
  readonly path?: string
  /** Does not wait for the welcome. */
  readonly raw?: boolean
}

/** Opens a stream with `GET <url>/downward` and waits for the welcome. */
export async function openStream (t: Test, url: string, { headers = {}, path = '/downward', raw = false, dispatcher }: OpenOptions = {}): Promise<Stream> {
  const agent = dispatcher ?? new Agent({ bodyTimeout: 0 })
  if (dispatcher === undefined) t.teardown(() => (agent as Agent).destroy())
  const { statusCode, headers: got, body } = await request(url + path, { headers, dispatcher: agent })
  const events: StreamEvent[] = []
  const waiting = new Set<() => void>()
  const ended = signal()
  let text = ''
  const parser = createParser({
    onEvent: ({ event = 'message', data, id }) => { events.push({ event, data: JSON.parse(data), id }) }
  })
  const decoder = new TextDecoder()
  body.on('data', (chunk: Buffer) => {
    const decoded = decoder.decode(chunk, { stream: true })
    text += decoded
    parser.feed(decoded)
    for (const check of waiting) check()
  })
  body.on('error', () => {})
  body.on('close', () => { ended.resolve() })
  const waitFor: Stream['waitFor'] = (test, what = 'an event') => {
    const found = signal<StreamEvent>()
    const check = (): void => {
      const event = events.find(test)
      if (event === undefined) return
      waiting.delete(check)
      found.resolve(event)
    }
    waiting.add(check)
    check()
    return within(found.promise, what)
  }
  const sessionId = String(got['x-session-id'] ?? '')
  if (!raw) await waitFor(({ event }) => event === 'welcome', 'the welcome')
  return { status: statusCode, headers: got, raw: () => text, events, sessionId, waitFor, ended: ended.promise, destroy: () => { body.destroy() }, body }
}

export interface Answer {
  readonly status: number
  readonly headers: Record<string, string | string[] | undefined>
  readonly body: unknown
}

export interface PostOptions {
  readonly event?: string
  readonly key?: string
  readonly headers?: Record<string, string>
  readonly dispatcher?: Dispatcher
  readonly path?: string
}

/** Posts data to `<url>/upward[/event]`, as JSON. A string is sent unchanged. */
export async function post (url: string, sessionId: string, data: unknown, { event, key, headers = {}, path = '/upward', dispatcher }: PostOptions = {}): Promise<Answer> {
  const { statusCode, headers: got, body } = await request(`${url}${path}${event === undefined ? '' : `/${encodeURIComponent(event)}`}`, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      'x-session-id': sessionId,
      ...key !== undefined && { 'idempotency-key': key },
      ...headers
    },
    body: typeof data === 'string' ? data : JSON.stringify(data),
    ...dispatcher !== undefined && { dispatcher }
  })
  const text = await body.text()
  return { status: statusCode, headers: got, body: String(got['content-type']).includes('json') ? JSON.parse(text) : text }
}

/** Ends a session with `DELETE <url>/downward`. */
export async function remove (url: string, sessionId: string, headers: Record<string, string> = {}): Promise<Answer> {
  const { statusCode, headers: got, body } = await request(`${url}/downward`, { method: 'DELETE', headers: { 'x-session-id': sessionId, ...headers } })
  return { status: statusCode, headers: got, body: statusCode === 204 ? await body.text() : await body.json() }
}
