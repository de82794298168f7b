import { createServer, request as sendRequest } from 'node:http'
import { pipeline } from 'node:stream'

const HOP_BY_HOP = ['connection', 'keep-alive', 'transfer-encoding']

/**
 * A load balancer without sticky sessions: each request goes to the next port.
 * @param {() => number[]} getPorts
 */
export function createRoundRobinProxy (getPorts) {
  let count = 0
  return createServer((request, response) => {
    const ports = getPorts()
    const port = ports[count++ % ports.length]
    if (port === undefined) {
      response.writeHead(502).end()
      return
    }
    const { method, url: path, headers } = request
    const upstreamRequest = sendRequest({ port, host: '127.0.0.1', method, path, headers }, upstream => {
      for (const name of HOP_BY_HOP) delete upstream.headers[name]
      response.writeHead(upstream.statusCode ?? 502, upstream.headers)
      response.flushHeaders()
      pipeline(upstream, response, () => {})
    })
    upstreamRequest.on('error', () => {
      if (response.headersSent) response.destroy()
      else response.writeHead(502).end()
    })
    response.on('close', () => { upstreamRequest.destroy() })
    request.pipe(upstreamRequest)
  })
}
