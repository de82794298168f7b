import { constants, gunzipSync } from 'node:zlib'
import type { Test } from 'tap'
import { request } from 'undici'
import { deferred } from './wait.js'

export const GZIP = { 'accept-encoding': 'gzip' }

/** An event stream that may be compressed. */
export interface EncodedStream {
  readonly headers: Record<string, string | string[] | undefined>
  readonly sessionId: string
  /** Everything received so far, without decoding, with one character for each byte. */
  readonly raw: () => string
  /** Everything received so far, decoded. */
  readonly text: () => string
  /** Resolves when the body has closed. */
  readonly ended: Promise<void>
}

/** Opens a stream with a client that accepts gzip. */
export async function openEncodedStream (t: Test, url: string, headers: Record<string, string> = GZIP): Promise<EncodedStream> {
  const response = await request(`${url}/downward`, { headers })
  const chunks: Buffer[] = []
  const ended = deferred()
  response.body.on('data', (chunk: Buffer) => { chunks.push(chunk) }).on('error', () => {}).on('close', () => { ended.resolve() })
  t.teardown(() => { response.body.destroy() })
  return {
    headers: response.headers,
    sessionId: String(response.headers['x-session-id']),
    raw: () => Buffer.concat(chunks).toString('latin1'),
    text: () => {
      const bytes = Buffer.concat(chunks)
      const isCompressed = response.headers['content-encoding'] === 'gzip' && bytes.length > 0
      return (isCompressed ? gunzipSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH }) : bytes).toString()
    },
    ended: ended.promise
  }
}
