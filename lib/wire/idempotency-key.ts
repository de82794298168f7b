import { hash } from 'node:crypto'
import { serialize as serializeBinary } from 'node:v8'
import { DataTooDeep } from '../errors.js'

/** Whether a value is an idempotency key: 1 to 255 printable ASCII characters, of which the first is not a space. */
export const isIdempotencyKey = (key: unknown): key is string => typeof key === 'string' && /^[\x21-\x7e][\x20-\x7e]{0,254}$/.test(key)

/** Returns a hash of a name and data, which detects that a key is reused for something else. */
export function fingerprint (name: string, json = 'null'): string {
  return hash('sha256', `[${JSON.stringify(name)},${json}]`, 'base64')
}

/** Returns what {@link serializeData} returns for the data of a JSON text; the text itself if it cannot be parsed, or not be serialized because it is nested too deeply. */
export function normalizeJson (text: string): string {
  try {
    return JSON.stringify(JSON.parse(text))
  } catch {
    return text
  }
}

/** Serializes parsed data for {@link fingerprint}; as JSON, if possible. Throws FST_SSE_DATA_TOO_DEEP. */
export function serializeData (data: unknown): string | undefined {
  try {
    return JSON.stringify(data)
  } catch (error) {
    // The parser of the app may create big integers, which have no JSON form.
    if (error instanceof TypeError) return serializeBinary(data).toString('base64')
    // JSON.parse accepts deeper nesting than JSON.stringify.
    throw new DataTooDeep()
  }
}
