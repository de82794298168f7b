import { createParser } from 'eventsource-parser'

/** Parses all that came over one connection and throws unless it is every event, whole and in order, with its id. */
export function verify (sample, { sessionId, count, dialect, ids }) {
  const end = sample.indexOf('\r\n\r\n') + 4
  const head = sample.slice(0, end).toLowerCase()
  const body = sample.slice(end)
  const all = dialect === 'ws' || dialect === 'socket.io' ? frames(body) : events(head.includes('transfer-encoding: chunked') ? dechunk(body) : body)
  const numbered = all.filter(({ data }) => data.includes('"n":'))
  let last = -1
  for (const [index, { data, id }] of numbered.entries()) {
    const { n } = JSON.parse(data)
    if (n !== index + 1) throw new Error(`A sampled client parsed event ${n} where ${index + 1} was due`)
    if (!ids) continue
    const [owner, digits] = id.split('.')
    const position = Number.parseInt(digits, 36)
    if (owner !== sessionId || !(position > last)) throw new Error(`A sampled client got id ${id} after position ${last}`)
    last = position
  }
  if (numbered.length !== count) throw new Error(`A sampled client parsed ${numbered.length} events of ${count}`)
}

function dechunk (body) {
  let text = ''
  for (let at = 0; at < body.length;) {
    const start = body.indexOf('\r\n', at) + 2
    const size = Number.parseInt(body.slice(at, start), 16)
    text += body.slice(start, start + size)
    at = start + size + 2
  }
  return text
}

function events (text) {
  const found = []
  createParser({ onEvent: event => { found.push(event) } }).feed(text)
  return found
}

/** Text frames of a WebSocket, without what Socket.IO puts around the data. */
function frames (bytes) {
  const found = []
  for (let at = 0; at < bytes.length;) {
    const short = bytes.charCodeAt(at + 1)
    const start = at + (short === 126 ? 4 : 2)
    const length = short === 126 ? bytes.charCodeAt(at + 2) * 256 + bytes.charCodeAt(at + 3) : short
    const text = bytes.slice(start, start + length)
    found.push({ data: text.startsWith('42') ? text.slice('42["message",'.length, -1) : text })
    at = start + length
  }
  return found
}
