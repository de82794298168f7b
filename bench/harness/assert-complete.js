import { createParser } from 'eventsource-parser'

/**
 * Parses everything received on one connection. Throws unless it contains events 1 to `count`, whole and in order, and, if
 * the subject has them, event ids of this session with increasing positions.
 */
export function assertComplete (received, { sessionId, count, protocol, hasEventIds }) {
  const bodyStart = received.indexOf('\r\n\r\n') + 4
  const head = received.slice(0, bodyStart).toLowerCase()
  const body = received.slice(bodyStart)
  const isWebSocket = protocol === 'ws' || protocol === 'socket.io'
  const events = isWebSocket ? parseFrames(body) : parseEvents(head.includes('transfer-encoding: chunked') ? decodeChunks(body) : body)
  const numbered = events.filter(({ data }) => data.includes('"n":'))
  let lastPosition = -1
  for (const [index, { data, id }] of numbered.entries()) {
    const { n } = JSON.parse(data)
    if (n !== index + 1) throw new Error(`A sampled client parsed event ${n}, expected ${index + 1}`)
    if (!hasEventIds) continue
    const [idPrefix, digits] = id.split('.')
    const position = Number.parseInt(digits, 36)
    if (idPrefix !== sessionId || !(position > lastPosition)) throw new Error(`A sampled client received id ${id} after position ${lastPosition}`)
    lastPosition = position
  }
  if (numbered.length !== count) throw new Error(`A sampled client parsed ${numbered.length} events, expected ${count}`)
}

function decodeChunks (body) {
  let text = ''
  for (let at = 0; at < body.length;) {
    const start = body.indexOf('\r\n', at) + 2
    const size = Number.parseInt(body.slice(at, start), 16)
    text += body.slice(start, start + size)
    at = start + size + 2
  }
  return text
}

function parseEvents (text) {
  const events = []
  createParser({ onEvent: event => { events.push(event) } }).feed(text)
  return events
}

/** Parses the text frames of a WebSocket, and removes the envelope of Socket.IO. */
function parseFrames (bytes) {
  const events = []
  for (let at = 0; at < bytes.length;) {
    const shortLength = bytes.charCodeAt(at + 1)
    const isExtended = shortLength === 126
    const start = at + (isExtended ? 4 : 2)
    const length = isExtended ? bytes.charCodeAt(at + 2) * 256 + bytes.charCodeAt(at + 3) : shortLength
    const text = bytes.slice(start, start + length)
    events.push({ data: text.startsWith('42') ? text.slice('42["message",'.length, -1) : text })
    at = start + length
  }
  return events
}
