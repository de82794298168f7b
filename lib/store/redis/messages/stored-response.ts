import type { StoredResponse } from '../../message-queue.js'

interface EncodedResponse {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body?: string
  /** A body of bytes, as base64. */
  readonly bytes?: string
}

/** Encodes a response for repeats, which may arrive at another process. Returns `d` (dropped) if it has more than `maxBytes`. */
export function encodeResponse ({ status, headers, body }: StoredResponse, maxBytes: number): string {
  const stored: EncodedResponse = { status, headers, ...typeof body === 'string' ? { body } : body !== undefined && { bytes: Buffer.from(body).toString('base64') } }
  const text = JSON.stringify(stored)
  return Buffer.byteLength(text) > maxBytes ? 'd' : text
}

export function decodeResponse (text: string): StoredResponse {
  const { status, headers, body, bytes } = JSON.parse(text) as EncodedResponse
  return { status, headers, body: bytes === undefined ? body : Buffer.from(bytes, 'base64') }
}
