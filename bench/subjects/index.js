/** Those that run on Node and take events from the server to the client. */
export const PEERS = ['express', 'better-sse', '@fastify/sse', 'fastify-sse-v2', 'ws', 'socket.io']
export const ALL = ['ours', 'raw', ...PEERS]
/** What is left when all that ours adds is taken away, one thing after the other. */
export const FLOORS = ['unchunked', 'fastify']
