import { createServer, request as ask } from 'node:http'
import { pipeline } from 'node:stream'

const HOP_BY_HOP = ['connection', 'keep-alive', 'transfer-encoding']

/**
 * A load balancer that knows nothing of sessions: each request goes to the next port.
 * @param {() => number[]} ports
 */
export function roundRobin (ports) {
  let turn = 0
  return createServer((request, response) => {
    const all = ports()
    const port = all[turn++ % all.length]
    if (port === undefined) {
      response.writeHead(502).end()
      return
    }
    const { method, url: path, headers } = request
    const forwarded = ask({ port, host: '127.0.0.1', method, path, headers }, answer => {
      for (const name of HOP_BY_HOP) delete answer.headers[name]
      response.writeHead(answer.statusCode ?? 502, answer.headers)
      response.flushHeaders()
      pipeline(answer, response, () => {})
    })
    forwarded.on('error', () => {
      if (response.headersSent) response.destroy()
      else response.writeHead(502).end()
    })
    response.on('close', () => { forwarded.destroy() })
    request.pipe(forwarded)
  })
}
