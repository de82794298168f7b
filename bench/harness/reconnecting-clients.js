// Clients that reconnect: the official client of each subject, with its default options.
import { EventSource } from 'eventsource'
import { createClient } from 'graphql-sse'
import ReconnectingWebSocket from 'reconnecting-websocket'
import { io } from 'socket.io-client'
import { WebSocket } from 'ws'
import { OURS } from '../subjects/support/builds.js'

const { connect } = await import(new URL('client/node.js', OURS))

/**
 * By subject, a function that connects to a URL. It calls `onWelcome` when the server has welcomed the client, also after
 * each reconnect, and `onEvent` with the number of each event. It returns a function that closes the client.
 */
export const reconnectingClients = {
  ours: (url, onWelcome, onEvent) => {
    const session = connect(url)
    for (const event of ['open', 'resume', 'reset']) session.on(event, onWelcome)
    session.on('message', ({ n }) => { onEvent(n) })
    return () => session.close()
  },
  'better-sse': connectEventSource,
  '@fastify/sse': connectEventSource,
  ws: (url, onWelcome, onEvent) => {
    const socket = new ReconnectingWebSocket(url.replace('http', 'ws'), [], { WebSocket })
    socket.addEventListener('message', ({ data }) => {
      const { n } = JSON.parse(data)
      if (n === undefined) onWelcome()
      else onEvent(n)
    })
    return () => { socket.close() }
  },
  'socket.io': connectSocketIo,
  'socket.io-recovery': connectSocketIo,
  'graphql-sse': (url, onWelcome, onEvent) => {
    const client = createClient({ url })
    client.subscribe({ query: 'subscription { message { n text } }' }, {
      next: ({ data: { message: { n } } }) => {
        if (n === 0) onWelcome()
        else onEvent(n)
      },
      error: error => { console.error('graphql-sse stopped', error) },
      complete () {}
    })
    return () => { client.dispose() }
  }
}

function connectEventSource (url, onWelcome, onEvent) {
  const source = new EventSource(`${url}/downward`)
  source.addEventListener('welcome', onWelcome)
  source.addEventListener('message', ({ data }) => { onEvent(JSON.parse(data).n) })
  return () => { source.close() }
}

function connectSocketIo (url, onWelcome, onEvent) {
  const socket = io(url, { transports: ['websocket'], forceNew: true })
  socket.on('welcome', onWelcome)
  socket.on('message', ({ n }) => { onEvent(n) })
  return () => { socket.disconnect() }
}
