import { createServer, request as ask, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { buffer } from 'node:stream/consumers'
import type { Test } from 'tap'

/** A load balancer that knows nothing of sessions: each request goes to the next port, or to the one after it if that refuses. */
export async function balance (t: Test, ports: () => readonly number[]): Promise<string> {
  let turn = 0
  const next = (): number => {
    const all = ports()
    return all[turn++ % all.length] ?? 0
  }
  const pass = (request: IncomingMessage, body: Buffer, response: ServerResponse, attempts: number): void => {
    const { method, url: path, headers } = request
    const forwarded = ask({ host: '127.0.0.1', port: next(), method, path, headers: { ...headers, connection: 'close' }, agent: false }, answer => {
      const { connection, 'transfer-encoding': encoding, ...others } = answer.headers
      response.writeHead(answer.statusCode ?? 502, others).flushHeaders()
      answer.on('error', () => { response.destroy() })
      answer.pipe(response)
    })
    forwarded.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' && attempts > 1) pass(request, body, response, attempts - 1)
      else if (response.headersSent) response.destroy()
      else response.writeHead(502).end()
    })
    response.on('close', () => { forwarded.destroy() })
    forwarded.end(body)
  }
  const server = createServer((request, response) => {
    buffer(request).then(body => { pass(request, body, response, ports().length) }, () => {})
  })
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  await new Promise<void>(resolve => { server.listen(0, '127.0.0.1', resolve) })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}
