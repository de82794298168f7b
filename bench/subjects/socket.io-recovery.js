// Socket.IO with connection state recovery: the server keeps packets, and a client that reconnects gets those that it has missed.
import { start as startSocketIo } from './socket.io.js'

export const start = options => startSocketIo({ ...options, connectionStateRecovery: {} })
