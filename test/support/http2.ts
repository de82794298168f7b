import { readFileSync } from 'node:fs'
import { connect, type ClientHttp2Session, type IncomingHttpHeaders } from 'node:http2'
import type { FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import { signal, within } from './wait.js'

const pem = (name: string): Buffer => readFileSync(new URL(`localhost.${name}`, import.meta.url))

/** Options of Fastify for HTTP/2 over TLS. The cast is needed because Fastify has separate types for HTTP/2 servers. */
export const http2Server = { http2: true, https: { key: pem('key'), cert: pem('crt') } } as FastifyServerOptions

/** Connects the HTTP/2 client of Node. `window` is its flow-control window in bytes. */
export function http2Client (t: Test, { port }: { readonly port: number }, window = 65_535): ClientHttp2Session {
  const client = connect(`https://localhost:${port}`, {
    ca: pem('crt'),
    lookup: (_host, _options, done) => { done(null, [{ address: '127.0.0.1', family: 4 }]) },
    settings: { initialWindowSize: window }
  })
  client.on('connect', () => { client.setLocalWindowSize(window) }).on('error', () => {})
  t.teardown(() => { client.destroy() })
  return client
}

export interface Http2Answer {
  readonly headers: IncomingHttpHeaders
  readonly text: () => string
  /** Starts to read, if the request was `stalled`. */
  readonly read: () => void
  /** Resolves when the stream has closed, with or without an error. */
  readonly ended: Promise<void>
  readonly cancel: () => void
}

/** Sends a request. Resolves when the headers of the response have arrived. */
export function ask (client: ClientHttp2Session, headers: Record<string, string>, { body, stalled = false }: { body?: string, stalled?: boolean } = {}): Promise<Http2Answer> {
  const received = signal<Http2Answer>()
  const ended = signal()
  const stream = client.request(headers)
  let text = ''
  const read = (): void => { stream.setEncoding('utf8').on('data', (chunk: string) => { text += chunk }) }
  if (!stalled) read()
  stream.on('error', () => {}).on('close', () => { ended.resolve() })
  stream.on('response', headers => { received.resolve({ headers, text: () => text, read, ended: ended.promise, cancel: () => { stream.close() } }) })
  stream.end(body)
  return within(received.promise, 'the response')
}
