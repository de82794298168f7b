import { once } from 'node:events'
import { createServer } from 'node:http'

const ANSWER = '{"status":"accepted"}'
const HEAD = { 'Content-Type': 'application/json', 'Content-Length': ANSWER.length }

/** A server by hand: `open` gets each GET, `receive` the session's id and the data of each POST. Answers with its port. */
export async function serve (open, receive) {
  const server = createServer((request, response) => {
    if (request.method === 'GET') {
      open(request, response)
      return
    }
    let body = ''
    request.setEncoding('utf8')
    request.on('data', chunk => { body += chunk })
    request.on('end', () => {
      receive(request.headers['x-session-id'], JSON.parse(body))
      response.writeHead(202, HEAD)
      response.end(ANSWER)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server.address().port
}
