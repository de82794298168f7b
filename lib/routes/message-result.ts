import type { StoredResponse } from '../store/message-queue.js'

/** Returns the JSON of the result of one message, as in the response to a batch. */
export function formatResult ({ response: { status, headers, body }, replayed = false }: { response: StoredResponse, replayed?: boolean }): string {
  const json = body === undefined ? '' : `,"body":${toJson(typeof body === 'string' ? body : Buffer.from(body).toString(), headers['content-type'])}`
  return `{"status":${status}${json}${replayed ? ',"replayed":true' : ''}}`
}

/** Returns a body as JSON. A body that is not JSON becomes a string. */
function toJson (text: string, contentType = ''): string {
  if (/^application\/(.+\+)?json\b/.test(contentType)) {
    try {
      JSON.parse(text)
      return text
    } catch {}
  }
  return JSON.stringify(text)
}
