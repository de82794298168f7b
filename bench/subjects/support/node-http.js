import { once } from 'node:events'
import { createServer } from 'node:http'

const BODY = '{"status":"accepted"}'
const HEADERS = { 'Content-Type': 'application/json', 'Content-Length': BODY.length }

/**
 * Starts a node:http server and returns its port. `onGet` receives the request and response of each GET, `onMessage` the
 * session id and the data of each POST.
 */
export async function serve (onGet, onMessage) {
  const server = createServer((request, response) => {
    if (request.method === 'GET') {
      onGet(request, response)
      return
    }
    let body = ''
    request.setEncoding('utf8')
    request.on('data', chunk => { body += chunk })
    request.on('end', () => {
      onMessage(request.headers['x-session-id'], JSON.parse(body))
      response.writeHead(202, HEADERS)
      response.end(BODY)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server.address().port
}
