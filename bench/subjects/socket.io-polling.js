// Socket.IO over HTTP long polling, which it falls back to if WebSocket is not available.
import { start as startSocketIo } from './socket.io.js'

export const start = options => startSocketIo({ ...options, transport: 'polling' })
