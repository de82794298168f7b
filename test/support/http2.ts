import { readFileSync } from 'node:fs'
import { connect, type ClientHttp2Session, type IncomingHttpHeaders } from 'node:http2'
import type { FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import { signal, within } from './wait.js'

const pem = (name: string): Buffer => readFileSync(new URL(`localhost.${name}`, import.meta.url))

/** Has Fastify serve HTTP/2 with TLS. Its types tell such servers from others; the plugin does not. */
export const http2Server = { http2: true, https: { key: pem('key'), cert: pem('crt') } } as FastifyServerOptions

/** Connects Node's own HTTP/2 client. `window` is how many bytes it lets come before it has read them. */
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
  /** Begins to read, where `stalled` was asked for. */
  readonly read: () => void
  /** Resolves when the stream is over, by its end or by an error. */
  readonly ended: Promise<void>
  readonly cancel: () => void
}

/** A request; resolves with the answer's headers. */
export function ask (client: ClientHttp2Session, headers: Record<string, string>, { body, stalled = false }: { body?: string, stalled?: boolean } = {}): Promise<Http2Answer> {
  const got = signal<Http2Answer>()
  const ended = signal()
  const stream = client.request(headers)
  let text = ''
  const read = (): void => { stream.setEncoding('utf8').on('data', (chunk: string) => { text += chunk }) }
  if (!stalled) read()
  stream.on('error', () => {}).on('close', () => { ended.resolve() })
  stream.on('response', headers => { got.resolve({ headers, text: () => text, read, ended: ended.promise, cancel: () => { stream.close() } }) })
  stream.end(body)
  return within(got.promise, 'the answer')
}
