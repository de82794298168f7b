// As raw, but a stream is not chunked: what that alone gains. A write is then one piece, and the stream ends with its connection.
import { start as startRaw } from './raw.js'

export const start = options => startRaw({ ...options, chunked: false })
