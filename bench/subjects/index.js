/*
 * Subjects are the servers that are compared. The file `<name>.js` exports `start (options)`, which starts the server and returns
 * - `port`, and `protocol`: a key of harness/protocols.js,
 * - `hasEventIds`: if event ids are checked; `hasHeartbeats`: if it sends heartbeats; both default to false,
 * - `size ()`: the number of open sessions,
 * - `broadcast (data)`: sends an event to all sessions,
 * - `sendToEach`, `streamTokens`, `streamCount`, `closeAll`: only for the workloads that use them,
 * - `cpu ()` and `stop ()`: only if the server is not this process.
 * It echoes each message to the session that sent it, except `graphql-sse` and `nchan`, which receive no messages.
 */

/** Other libraries and frameworks on Node. */
export const LIBRARIES = ['express', 'better-sse', '@fastify/sse', 'fastify-sse-v2', 'ws', 'socket.io']

/** The subjects of most workloads. */
export const STANDARD = ['ours', 'raw', ...LIBRARIES]

/** Servers without parts of what `ours` does, which show what these parts cost. */
export const LOWER_BOUNDS = ['unchunked', 'fastify']

/** All subjects. */
export const SUBJECTS = [...STANDARD, ...LOWER_BOUNDS, 'ours-10000', 'socket.io-polling', 'socket.io-recovery', 'graphql-sse', 'nchan', 'other']
