// Socket.IO over plain HTTP: what it falls back to where WebSocket does not get through.
import { start as startSocketIo } from './socket.io.js'

export const start = options => startSocketIo({ ...options, transport: 'polling' })
