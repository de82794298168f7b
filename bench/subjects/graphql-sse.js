// graphql-sse on node:http, with one subscription that yields every broadcast.
import { GraphQLInt, GraphQLNonNull, GraphQLObjectType, GraphQLSchema, GraphQLString } from 'graphql'
import { createHandler } from 'graphql-sse/lib/use/http'
import { EventEmitter, on, once } from 'node:events'
import { createServer } from 'node:http'

/** `n` is 0 in the welcome. */
const Message = new GraphQLObjectType({
  name: 'Message',
  fields: { n: { type: new GraphQLNonNull(GraphQLInt) }, text: { type: GraphQLString } }
})

export async function start () {
  const emitter = new EventEmitter().setMaxListeners(0)

  async function * subscribe () {
    // Listens before the welcome is sent, so that the client misses no event after it.
    const events = on(emitter, 'message')
    try {
      yield { message: { n: 0 } }
      for await (const [message] of events) yield { message }
    } finally {
      await events.return()
    }
  }

  const schema = new GraphQLSchema({
    query: new GraphQLObjectType({ name: 'Query', fields: { version: { type: GraphQLString } } }),
    subscription: new GraphQLObjectType({ name: 'Subscription', fields: { message: { type: Message, subscribe } } })
  })
  const handle = createHandler({ schema })
  const server = createServer((request, response) => {
    // It rejects if the connection is lost while an event is written.
    handle(request, response).catch(() => { response.destroy() })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: server.address().port,
    protocol: 'graphql-sse',
    size: () => emitter.listenerCount('message'),
    broadcast: message => { emitter.emit('message', message) }
  }
}
