import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'

export type Answer = (response: ServerResponse, body: string) => void | Promise<void>

export interface Asked {
  readonly method: string
  readonly url: string
  readonly headers: IncomingHttpHeaders
  readonly body: string
  readonly at: number
}

export interface ScriptedServer {
  readonly url: string
  /** Requests that came, in order. */
  readonly requests: Asked[]
}

/** An HTTP server that gives each GET the next of its answers, 204 after the last, and each POST the next of its own. */
export async function scriptedServer (t: Test, gets: Answer[], posts: Answer[] = []): Promise<ScriptedServer> {
  const requests: Asked[] = []
  const server = createServer(async (request, response) => {
    const { method = '', url = '', headers } = request
    let body = ''
    for await (const chunk of request.setEncoding('utf8')) body += String(chunk)
    requests.push({ method, url, headers, body, at: performance.now() })
    const answer = (method === 'POST' ? posts : gets).shift() ?? status(204)
    await answer(response, body)
  })
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  await new Promise<void>(resolve => { server.listen(0, '127.0.0.1', resolve) })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests }
}

/** Answers with a status alone. */
export function status (code: number, headers: Record<string, string> = {}, body?: unknown): Answer {
  return response => { response.writeHead(code, headers).end(body === undefined ? undefined : JSON.stringify(body)) }
}

/** Begins an event stream, whose chunks come apart; the client does not wait long between attempts. */
export async function begin (response: ServerResponse, ...chunks: Array<string | Buffer>): Promise<ServerResponse> {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  await write(response, 'retry: 1\n\n', ...chunks)
  return response
}

/** Writes chunks that come apart: each leaves a turn of the event loop in which a client of this process reads it. */
export async function write (response: ServerResponse, ...chunks: Array<string | Buffer>): Promise<void> {
  for (const chunk of chunks) {
    await new Promise(resolve => { response.write(chunk, resolve) })
    for (let turn = 0; turn < 2; turn++) await new Promise(resolve => { setImmediate(resolve) })
  }
}

/** Answers with an event stream that ends after its chunks. */
export function stream (...chunks: Array<string | Buffer>): Answer {
  return async response => { (await begin(response, ...chunks)).end() }
}

/** Answers with an event stream that stays open. */
export function open (...chunks: Array<string | Buffer>): Answer {
  return async response => { await begin(response, ...chunks) }
}

export const welcome = (resumed = false, sessionId = 's', more: object = {}): string =>
  `event: welcome\nid: ${sessionId}.0\ndata: ${JSON.stringify({ sessionId, resumed, ...more })}\n\n`

/** The event that ends a session. */
export const CLOSE = 'event: close\ndata: {"reason":"the end"}\n\n'

export const isPost = ({ method }: Asked): boolean => method === 'POST'

/** The messages of a batch. */
export const lines = ({ body }: Pick<Asked, 'body'>): Array<{ event: string, data: unknown, id: string }> => body.split('\n').map(line => JSON.parse(line))

/** Answers each message of a batch with its own data. */
export const echo: Answer = (response, body) => {
  response.end(JSON.stringify(lines({ body }).map(({ data }) => ({ status: 200, body: data }))))
}
