const get = (path, headers) => `GET ${path} HTTP/1.1\r\nHost: bench\r\n${headers.map(line => `${line}\r\n`).join('')}\r\n`
const upgrade = path => get(path, ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=='])
const WELCOME = /"sessionId":"([^"]+)"/

/** A client's frame of a WebSocket: masked as it must be, by nothing. */
export function maskedFrame (text, opcode = 1) {
  const body = Buffer.from(text)
  const length = body.length < 126 ? [0x80 | body.length] : [0x80 | 126, body.length >> 8, body.length & 0xff]
  return Buffer.concat([Buffer.from([0x80 | opcode, ...length, 0, 0, 0, 0]), body])
}

/**
 * How clients of each kind open a stream and send. `hello` is their request; `welcome` matches when the stream is
 * open; `greeted` is sent once on 101; `pong` answers a frame that is a server's ping; `up` makes the bytes of a message, `ask` those
 * of one that is answered by its number.
 */
export const dialects = {
  sse: {
    hello: (headers = []) => get('/downward', ['Accept: text/event-stream', ...headers]),
    welcome: WELCOME
  },
  nchan: {
    hello: () => get('/downward', ['Accept: text/event-stream']),
    welcome: /\r\n\r\n/
  },
  ws: {
    hello: () => upgrade('/'),
    welcome: WELCOME,
    ping: Buffer.from([0x89, 0]),
    pong: maskedFrame('', 10),
    up: json => maskedFrame(json)
  },
  'socket.io': {
    hello: () => upgrade('/socket.io/?EIO=4&transport=websocket'),
    greeted: maskedFrame('40'),
    welcome: WELCOME,
    ping: Buffer.from([0x81, 1, 0x32]),
    pong: maskedFrame('3'),
    up: (json, event) => maskedFrame(`42["${event}",${json}]`),
    ask: (n, json) => maskedFrame(`42${n}["ask",${json}]`)
  },
  'socket.io polling': {
    polls: true,
    up: (json, event) => `42["${event}",${json}]`,
    ask: (n, json) => `42${n}["ask",${json}]`
  }
}
