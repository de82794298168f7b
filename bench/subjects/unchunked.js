// `raw` without chunked encoding, which shows what that alone saves: each write is then one buffer instead of several.
import { start as startRaw } from './raw.js'

export const start = options => startRaw({ ...options, isChunked: false })
