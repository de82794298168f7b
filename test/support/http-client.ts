import { createParser } from 'eventsource-parser'
import type { Test } from 'tap'
import { Agent, request, type Dispatcher } from 'undici'
import { deferred, withTimeout } from './wait.js'

export interface StreamEvent {
  readonly event: string
  /** Parsed as JSON. */
  readonly data: unknown
  readonly id: string | undefined
}

/** An event stream over a real socket. */
export interface ClientStream {
  readonly status: number
  readonly headers: Record<string, string | string[] | undefined>
  /** Everything received so far, as text. */
  readonly text: () => string
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

export interface OpenStreamOptions {
  readonly headers?: Record<string, string>
  readonly dispatcher?: Dispatcher
  readonly path?: string
  /** Does not wait for the welcome. */
  readonly skipWelcome?: boolean
}

/** Opens a stream with `GET <url>/downward` and waits for the welcome. */
export async function openStream (t: Test, url: string, { headers = {}, path = '/downward', skipWelcome = false, dispatcher }: OpenStreamOptions = {}): Promise<ClientStream> {
  const agent = dispatcher ?? new Agent({ bodyTimeout: 0 })
  if (dispatcher === undefined) t.teardown(() => (agent as Agent).destroy())
  const { statusCode, headers: responseHeaders, body } = await request(url + path, { headers, dispatcher: agent })
  const events: StreamEvent[] = []
  const waiting = new Set<() => void>()
  const ended = deferred()
  let text = ''
  const parser = createParser({
    onEvent: ({ event = 'message', data, id }) => { events.push({ event, data: data === '' ? undefined : JSON.parse(data), id }) }
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
  const waitFor: ClientStream['waitFor'] = (test, what = 'an event') => {
    const found = deferred<StreamEvent>()
    const check = (): void => {
      const event = events.find(test)
      if (event === undefined) return
      waiting.delete(check)
      found.resolve(event)
    }
    waiting.add(check)
    check()
    return withTimeout(found.promise, what)
  }
  const sessionId = String(responseHeaders['x-session-id'] ?? '')
  if (!skipWelcome) await waitFor(({ event }) => event === 'welcome', 'the welcome')
  return { status: statusCode, headers: responseHeaders, text: () => text, events, sessionId, waitFor, ended: ended.promise, destroy: () => { body.destroy() }, body }
}

export interface HttpResponse {
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
export async function postMessage (url: string, sessionId: string, data: unknown, { event, key, headers = {}, path = '/upward', dispatcher }: PostOptions = {}): Promise<HttpResponse> {
  const { statusCode, headers: responseHeaders, body } = await request(`${url}${path}${event === undefined ? '' : `/${encodeURIComponent(event)}`}`, {
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
  return { status: statusCode, headers: responseHeaders, body: String(responseHeaders['content-type']).includes('json') ? JSON.parse(text) : text }
}

/** Closes a session with `DELETE <url>/downward`. */
export async function deleteSession (url: string, sessionId: string, headers: Record<string, string> = {}): Promise<HttpResponse> {
  const { statusCode, headers: responseHeaders, body } = await request(`${url}/downward`, { method: 'DELETE', headers: { 'x-session-id': sessionId, ...headers } })
  return { status: statusCode, headers: responseHeaders, body: statusCode === 204 ? await body.text() : await body.json() }
}
