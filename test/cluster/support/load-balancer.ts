import { createServer, request as sendRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { buffer } from 'node:stream/consumers'
import type { Test } from 'tap'

/** Starts a load balancer without sticky sessions. Each request goes to the next port, or to the one after it if the connection is refused. Resolves with its URL. */
export async function startLoadBalancer (t: Test, getPorts: () => readonly number[]): Promise<string> {
  let count = 0
  const nextPort = (): number => {
    const ports = getPorts()
    return ports[count++ % ports.length] ?? 0
  }
  const forward = (request: IncomingMessage, body: Buffer, response: ServerResponse, attempts: number): void => {
    const { method, url: path, headers } = request
    const upstreamRequest = sendRequest({ host: '127.0.0.1', port: nextPort(), method, path, headers: { ...headers, connection: 'close' }, agent: false }, upstream => {
      const { connection, 'transfer-encoding': encoding, ...others } = upstream.headers
      response.writeHead(upstream.statusCode ?? 502, others).flushHeaders()
      upstream.on('error', () => { response.destroy() })
      upstream.pipe(response)
    })
    upstreamRequest.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' && attempts > 1) forward(request, body, response, attempts - 1)
      else if (response.headersSent) response.destroy()
      else response.writeHead(502).end()
    })
    response.on('close', () => { upstreamRequest.destroy() })
    upstreamRequest.end(body)
  }
  const server = createServer((request, response) => {
    buffer(request).then(body => { forward(request, body, response, getPorts().length) }, () => {})
  })
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  await new Promise<void>(resolve => { server.listen(0, '127.0.0.1', resolve) })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}
