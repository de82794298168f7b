import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'

/** Responds to one request. `body` is the body of the request. */
export type Responder = (response: ServerResponse, body: string) => void | Promise<void>

export interface ReceivedRequest {
  readonly method: string
  readonly url: string
  readonly headers: IncomingHttpHeaders
  readonly body: string
  /** In milliseconds, by `performance.now()`. */
  readonly receivedAt: number
}

export interface ScriptedServer {
  readonly url: string
  /** The requests so far, in order. */
  readonly requests: ReceivedRequest[]
  /** Closes all connections, also those without a stream. */
  readonly closeStreams: () => void
}

/** Starts an HTTP server that uses each responder of `gets` for one GET and each responder of `posts` for one POST, in order, and responds 204 to all other requests. */
export async function scriptedServer (t: Test, gets: Responder[], posts: Responder[] = []): Promise<ScriptedServer> {
  const requests: ReceivedRequest[] = []
  const server = createServer(async (request, response) => {
    const { method = '', url = '', headers } = request
    let body = ''
    for await (const chunk of request.setEncoding('utf8')) body += String(chunk)
    requests.push({ method, url, headers, body, receivedAt: performance.now() })
    const responder = (method === 'POST' ? posts : gets).shift() ?? respond(204)
    await responder(response, body)
  })
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  await new Promise<void>(resolve => { server.listen(0, '127.0.0.1', resolve) })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests, closeStreams: () => { server.closeAllConnections() } }
}

/** Responds with a status, headers and a JSON body. */
export function respond (status: number, headers: Record<string, string> = {}, body?: unknown): Responder {
  return response => { response.writeHead(status, headers).end(body === undefined ? undefined : JSON.stringify(body)) }
}

/** Starts an event stream with a short retry delay. The client receives the chunks one by one. */
export async function startStream (response: ServerResponse, ...chunks: Array<string | Buffer>): Promise<ServerResponse> {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  await writeChunks(response, 'retry: 1\n\n', ...chunks)
  return response
}

/** Writes chunks one by one. Leaves ticks of the event loop between them, in which a client in this process reads each. */
export async function writeChunks (response: ServerResponse, ...chunks: Array<string | Buffer>): Promise<void> {
  for (const chunk of chunks) {
    await new Promise(resolve => { response.write(chunk, resolve) })
    for (let tick = 0; tick < 2; tick++) await new Promise(resolve => { setImmediate(resolve) })
  }
}

/** Responds with an event stream that ends after its chunks. */
export function endedStream (...chunks: Array<string | Buffer>): Responder {
  return async response => { (await startStream(response, ...chunks)).end() }
}

/** Responds with an event stream that stays open. */
export function openStream (...chunks: Array<string | Buffer>): Responder {
  return async response => { await startStream(response, ...chunks) }
}

/** The text of a `welcome` event. `extra` is added to its data. */
export const welcome = (resumed = false, sessionId = 's', extra: object = {}, position = 0): string =>
  `event: welcome\nid: ${sessionId}.${position}\ndata: ${JSON.stringify({ sessionId, resumed, ...extra })}\n\n`

/** The text of a `close` event. */
export const CLOSE_EVENT = 'event: close\ndata: {"reason":"the end"}\n\n'

export const isPost = ({ method }: ReceivedRequest): boolean => method === 'POST'

/** The messages of a batch. */
export const messagesOf = ({ body }: Pick<ReceivedRequest, 'body'>): Array<{ event: string, data: unknown, id: string }> => body.split('\n').map(line => JSON.parse(line))

/** Responds to each message of a batch with its data. */
export const echo: Responder = (response, body) => {
  response.end(JSON.stringify(messagesOf({ body }).map(({ data }) => ({ status: 200, body: data }))))
}
