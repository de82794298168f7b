import type { StoredResponse } from '../../message-queue.js'

interface EncodedResponse {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body?: unknown
  readonly bytes?: string
  readonly error?: { readonly message: string, readonly [property: string]: unknown }
}

// The properties from which Fastify and this plugin create an error response.
const PROPERTIES = ['name', 'code', 'statusCode', 'status', 'validation', 'validationContext'] as const

/** Encodes a response for repeats, which may arrive at another process. */
export function encodeResponse ({ status, headers, body, error }: StoredResponse): string {
  const stored: EncodedResponse = { status, headers, ...body instanceof Uint8Array ? { bytes: Buffer.from(body).toString('base64') } : { body }, ...error !== undefined && { error: describe(error) } }
  try {
    return JSON.stringify(stored)
  } catch (cause) {
    // Fastify could not serialize the body, either.
    return JSON.stringify({ status: 500, headers: {}, error: describe(cause as Error) })
  }
}

export function decodeResponse (text: string): StoredResponse {
  const { status, headers, body, bytes, error } = JSON.parse(text) as EncodedResponse
  return { status, headers, body: bytes === undefined ? body : Buffer.from(bytes, 'base64'), error: error === undefined ? undefined : restore(error) }
}

function describe (error: Error): { message: string } {
  const properties = error as unknown as Record<string, unknown>
  return { message: error.message, ...Object.fromEntries(PROPERTIES.map(name => [name, properties[name]])) }
}

function restore ({ message, ...properties }: { readonly message: string, readonly [property: string]: unknown }): Error {
  return Object.assign(new Error(message), properties)
}
