const get = (path, headers) => `GET ${path} HTTP/1.1\r\nHost: bench\r\n${headers.map(header => `${header}\r\n`).join('')}\r\n`
const upgrade = path => get(path, ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=='])
const SESSION_ID = /"sessionId":"([^"]+)"/

/** A WebSocket frame of a client. It must be masked; the mask is zero, so that the payload stays as it is. */
function maskedFrame (text, opcode = 1) {
  const payload = Buffer.from(text)
  const length = payload.length < 126 ? [0x80 | payload.length] : [0x80 | 126, payload.length >> 8, payload.length & 0xff]
  return Buffer.concat([Buffer.from([0x80 | opcode, ...length, 0, 0, 0, 0]), payload])
}

/**
 * How clients of each protocol open a stream and send messages.
 * - `openRequest`: the request that opens a stream.
 * - `welcome`: matches what the server sends when the stream is open, and captures the session id.
 * - `afterUpgrade`: sent by the client when the connection has been upgraded.
 * - `ping`, `pong`: the server's ping frame, and the client's reply.
 * - `encodeMessage`: encodes a message to send on the stream's connection. Without it, messages are sent with POST.
 * - `encodeRequest`: the same for a message whose reply is matched by its number `n`.
 * - `usesHttp2`: the stream is one of many in an HTTP/2 connection.
 * - `usesPolling`: one long-polling request at a time takes the place of a stream.
 */
export const protocols = {
  sse: {
    openRequest: (headers = []) => get('/downward', ['Accept: text/event-stream', ...headers]),
    welcome: SESSION_ID
  },
  'sse-http2': {
    usesHttp2: true,
    welcome: SESSION_ID
  },
  nchan: {
    openRequest: () => get('/downward', ['Accept: text/event-stream']),
    welcome: /\r\n\r\n/
  },
  ws: {
    openRequest: () => upgrade('/'),
    welcome: SESSION_ID,
    ping: Buffer.from([0x89, 0]),
    pong: maskedFrame('', 10),
    encodeMessage: json => maskedFrame(json)
  },
  'socket.io': {
    openRequest: () => upgrade('/socket.io/?EIO=4&transport=websocket'),
    afterUpgrade: maskedFrame('40'),
    welcome: SESSION_ID,
    ping: Buffer.from([0x81, 1, 0x32]),
    pong: maskedFrame('3'),
    encodeMessage: (json, event) => maskedFrame(`42["${event}",${json}]`),
    encodeRequest: (n, json) => maskedFrame(`42${n}["request",${json}]`)
  },
  'socket.io-polling': {
    usesPolling: true,
    encodeMessage: (json, event) => `42["${event}",${json}]`,
    encodeRequest: (n, json) => `42${n}["request",${json}]`
  }
}
