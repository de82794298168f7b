/** A malformed request, as bytes to write to a socket. */
export interface MalformedRequest {
  readonly kind: string
  readonly bytes: Buffer
  /** What the client does after sending it: ends its side of the connection, disconnects, or waits for the response. */
  readonly then: 'end' | 'disconnect' | 'wait'
  /** Whether the server may close the connection without a response, because it received no complete request. */
  readonly mayCloseSilently: boolean
  /** Whether the server may respond with this status. 200 means that it opened a new session, instead of resuming one. */
  readonly isExpectedStatus: (status: number) => boolean
}

const isClientError = (status: number): boolean => status >= 400 && status < 500

const TARGETS = ['/', '//downward', '/downward/', '/DOWNWARD', '/upward/../downward', '/%', '/%zz', '/upward/%00/x', '/downward%', 'downward', '*', 'http://other.example/', '\\', '/downward/..;/', '/\xff', `/${'a'.repeat(3000)}`, `/upward/${'x'.repeat(3000)}`, '/upward/a/b', '/upward/%ED%A0%80']
const METHODS = ['get', 'BREW', '', 'TRACE', 'PROPFIND', 'HEAD', 'PUT', 'PATCH', 'OPTIONS', 'M-SEARCH', 'GETGETGET', 'G\0T', 'DELETE']
const VERSIONS = ['HTTP/1.1', 'HTTP/1.0', 'HTTP/2.0', 'HTTP/9.9', 'HTTP/0.9', 'HTTP', '', 'http/1.1', 'HTTP/1.1 x', 'ICE/1.0']
const HEADERS = ['X-A: \0', 'X-A\0: 1', 'no colon', ': no name', 'X-A : 1', ' folded: 1', 'Content-Length: -1', 'Content-Length: x', 'Content-Length: 1\r\nContent-Length: 2', 'Content-Length: 5\r\nTransfer-Encoding: chunked', 'Transfer-Encoding: gzip', 'Transfer-Encoding: chunked, identity', 'Expect: nonsense', 'Host: a\r\nHost: b', 'X-Session-ID:', 'X-Session-ID: a\r\nX-Session-ID: b', 'X-Session-ID: \xff\xfe\x80', 'Idempotency-Key: \xff', `X-A: ${'a'.repeat(20_000)}`, Array.from({ length: 2500 }, (_, i) => `X-${i}: 1`).join('\r\n'), 'Connection: Upgrade\r\nUpgrade: websocket', 'X-A: a\rb', 'X-A: a\nX-B']
const CONTENT_TYPES = ['text/plain', 'application/jsonx', 'application/x-ndjsonx', 'multipart/form-data', '/', 'application', '\xff', 'application/x-www-form-urlencoded', 'text/event-stream', ' ', 'application/json, application/x-ndjson']
const INVALID_JSON = ['', '{', '}', '[', '{"text"', '{"text":}', '{"text":"hi"', '{\'text\':1}', '{"text":"\n"}', '{"text":"\\x"}', 'undefined', 'NaN', '{"text":1e}', '{"__proto__":1}', '{"constructor":{"prototype":1}}', '{"text":"hi"}{', '[1,]', '{"text":"\\ud800\\u"}', '\0', '\xff\xfe{}', 'nul']
const INVALID_MESSAGES = ['{}', 'null', '0', '[]', '"text"', '{"text":""}', '{"text":null}', '{"text":{"text":"hi"}}', '{"text":1e999}', '{"toString":1}', '\ufeff{}']
const INVALID_LINES = ['null', '1', '"x"', '[]', '[{}]', '{"event":1}', '{"event":null}', '{"id":1,"data":1}', '{"id":""}', '{"id":"\\n"}', '{"id":"ü"}', '{', '{"event":{"a":1}}', `{"id":"${'k'.repeat(256)}"}`]
const CHUNKS = ['zz\r\nabc\r\n', '-1\r\n', '5\r\nab\r\n', 'ffffffffffffffffff\r\n', '3\nabc\n', '1;x=\0\r\na\r\n0\r\n\r\n', '\r\n']

/** Returns a generator of malformed requests. `victim` is the id of an open session, for requests that could affect it. */
export function malformedRequests (random: () => number, victim: string): () => MalformedRequest {
  const below = (end: number): number => Math.floor(random() * end)
  const pick = <T>(list: readonly T[]): T => list[below(list.length)] as T
  const characters = (from: number, to: number, length: number): string => Array.from({ length }, () => String.fromCharCode(from + below(to - from + 1))).join('')
  const request = (line: string, headers: readonly string[], body = ''): string => [line, 'Host: localhost', 'Connection: close', ...headers, '', body].join('\r\n')
  const post = (body: string, headers: readonly string[] = [], id = victim): string =>
    request(`POST /upward${pick(['', '/message'])} HTTP/1.1`, [`X-Session-ID: ${id}`, ...headers, `Content-Length: ${Buffer.byteLength(body, 'latin1')}`], body)
  const json = 'Content-Type: application/json'
  const ndjson = 'Content-Type: application/x-ndjson'
  const forgedId = (): string => pick<() => string>([
    () => victim.slice(0, below(24)), () => victim + characters(0x21, 0x7e, 1 + below(9)), () => characters(0x21, 0x7e, 24), () => characters(0x80, 0xff, 1 + below(30)),
    () => characters(0x21, 0x7e, 4000), () => `${victim},${victim}`, () => '__proto__', () => 'constructor'
  ])()
  const forgedCursor = (): string => pick<() => string>([
    () => `${forgedId() || 'x'}.0`, () => `${victim}.`, () => `${victim}.-1`, () => `${victim}.${'z'.repeat(11)}`, () => `${victim}.${'0'.repeat(12)}`, () => `${victim}.0\xe9`, () => `${victim}.A`,
    () => `${victim}.0, ${victim}.0`, () => 'close', () => 'closed.0', () => '0', () => '.', () => characters(0x80, 0xff, 10), () => `${characters(0x21, 0x7e, 24)}.0`, () => 'x'.repeat(9000)
  ])()

  const kinds: ReadonlyArray<() => Partial<MalformedRequest> & { text: string }> = [
    () => ({ kind: 'random bytes', text: characters(0, 255, 1 + below(500)), mayCloseSilently: true }),
    () => ({ kind: 'random text', text: characters(9, 126, 1 + below(500)) + pick(['', '\r\n\r\n']), mayCloseSilently: true }),
    () => ({ kind: 'other protocols', text: pick(['PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', '*1\r\n$4\r\nPING\r\n', 'SSH-2.0-OpenSSH_9.2\r\n', 'EHLO localhost\r\n']) }),
    () => ({ kind: 'method', text: request(`${pick(METHODS)} ${pick(['/downward', '/upward', ...TARGETS])} ${pick(VERSIONS)}`, []), mayCloseSilently: true }),
    () => ({ kind: 'target', text: request(`${pick(['GET', 'POST', 'DELETE'])} ${pick(TARGETS)} ${pick(VERSIONS)}`, []) }),
    () => ({ kind: 'version', text: request(`GET / ${pick(VERSIONS)}`, []) }),
    () => ({ kind: 'headers', text: request(`POST /upward${pick(['', '/x'])} HTTP/1.1`, [json, pick(HEADERS), pick(HEADERS)], '{}') }),
    () => ({ kind: 'content type', text: post('{"text":"hi"}', [`Content-Type: ${pick(CONTENT_TYPES)}`]) }),
    () => ({ kind: 'JSON', text: post(pick(INVALID_JSON), [json]) }),
    () => ({ kind: 'truncated JSON', text: post('{"text":"hello","more":[1,{"a":null}]}'.slice(0, 1 + below(37)), [json]) }),
    () => ({ kind: 'message', text: post(Buffer.from(pick(INVALID_MESSAGES)).toString('latin1'), [json]) }),
    () => ({ kind: 'deep JSON', text: post(pick(['[', '{"a":']).repeat(3000 + below(500)), [json]) }),
    () => {
      const depth = 4500 + below(4500)
      return { kind: 'JSON too deep for a fingerprint', text: post(`${'['.repeat(depth)}${']'.repeat(depth)}`, [json, `Idempotency-Key: ${characters(0x61, 0x7a, 20)}`]) }
    },
    () => ({ kind: 'large', text: post(characters(0x20, 0x7e, 20_001 + below(5_000)), [pick([json, ndjson])]), mayCloseSilently: true }),
    () => ({ kind: 'batch', text: post(Buffer.from(['{"data":{"text":"hi"}}', pick(INVALID_LINES), '{"data":1}'].slice(below(2)).join('\n')).toString('latin1'), [ndjson]) }),
    () => ({ kind: 'long batch', text: post('{}\n'.repeat(257 + below(1000)), [ndjson]) }),
    () => ({ kind: 'idempotency key', text: post('{"text":"hi"}', [json, `Idempotency-Key: ${pick([characters(0x80, 0xff, 5), 'k'.repeat(256 + below(1000))])}`]) }),
    () => ({ kind: 'no session', text: request('POST /upward HTTP/1.1', [json, 'Content-Length: 13'], '{"text":"hi"}') }),
    () => ({ kind: 'forged id', text: post('{"text":"hi"}', [json], forgedId()) }),
    () => ({ kind: 'DELETE', text: request('DELETE /downward HTTP/1.1', pick([[], [`X-Session-ID: ${forgedId()}`]])) }),
    () => ({ kind: 'cursor', text: request('GET /downward HTTP/1.1', [`Last-Event-ID: ${forgedCursor()}`]), then: 'wait', isExpectedStatus: status => status === 200 }),
    () => ({ kind: 'strict cursor', text: request('GET /downward HTTP/1.1', [`Last-Event-ID: ${forgedCursor()}`, 'X-Resume: required']), then: 'wait' }),
    () => ({ kind: 'id of a stream', text: request('GET /downward HTTP/1.1', [`X-Session-ID: ${forgedId() || 'x'}`]), then: 'wait', isExpectedStatus: status => status === 200 }),
    () => ({ kind: 'Accept', text: request('GET /downward HTTP/1.1', [`Accept: ${pick(['text/html', 'text/event-stream;q=0', '*', ';', ',', '\xff', '*/*;q=0.000'])}`]), then: 'wait' }),
    () => ({ kind: 'short body', text: request('POST /upward HTTP/1.1', [json, `X-Session-ID: ${victim}`, `Content-Length: ${20 + below(1000)}`], '{"text":"hi"') }),
    () => ({ kind: 'aborted upload', text: request('POST /upward HTTP/1.1', [json, `X-Session-ID: ${victim}`, pick(['Content-Length: 5000', 'Transfer-Encoding: chunked'])], `3\r\n${characters(0x20, 0x7e, 3)}\r\n`), then: 'disconnect', mayCloseSilently: true }),
    () => ({ kind: 'aborted head', text: request('GET /downward HTTP/1.1', ['X-A: 1']).slice(0, 1 + below(60)), then: pick(['disconnect', 'end'] as const), mayCloseSilently: true }),
    () => ({ kind: 'aborted stream', text: request('GET /downward HTTP/1.1', []), then: 'disconnect', mayCloseSilently: true, isExpectedStatus: status => status === 200 }),
    () => ({ kind: 'chunks', text: request('POST /upward HTTP/1.1', [json, `X-Session-ID: ${victim}`, 'Transfer-Encoding: chunked'], pick(CHUNKS)) }),
    () => ({ kind: 'pipeline', text: Array.from({ length: 2 + below(4) }, () => `${pick(['GET', 'PUT', 'DELETE'])} /${characters(0x61, 0x7a, 5)} HTTP/1.1\r\nHost: x\r\n\r\n`).join('') })
  ]
  return () => {
    const { text, ...properties } = pick(kinds)()
    return { kind: '', then: 'end', mayCloseSilently: false, isExpectedStatus: isClientError, ...properties, bytes: Buffer.from(text, 'latin1') }
  }
}
