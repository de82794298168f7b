import { abortReason } from './abort.js'
import { createBackoff, setTimer } from './backoff.js'
import { ClientError, createResponseError, isTransient, parseRetryAfter } from './errors.js'
import { IDLE_TIMEOUT } from './network.js'

export { ClientError }

// The parser of the responses compares bytes, because an event must be forwarded unchanged.
const LF = 10
const CR = 13
// Blocks that contain only ids and retry delays.
const PREAMBLE = /^(?:(?:(?:id|retry):.*(?:\r(?!\n)|\r?\n))*(?:\r(?!\n)|\r?\n))*/

/** Options of {@link resumableFetch}. */
export interface ResumableFetchOptions {
  /** The function that sends the requests. Default: the global `fetch`. */
  readonly fetch?: typeof globalThis.fetch
  /** Time for which a lost response is resumed without success, in milliseconds. Default: 60,000. `Infinity` turns it off. Error: `TIMEOUT`. */
  readonly timeout?: number
}

/**
 * Returns a function that can replace `fetch`: it continues to read a run when a connection is lost, so that the events of the run appear as
 * the body of one response. Each event is complete, and none is repeated. The first request is sent as it is, and is not repeated. If
 * the connection is lost later, a GET of the `Location` of the response, or of the same URL if the first request was a GET, continues
 * after the last event. All other responses are returned unchanged.
 *
 * The body fails with a {@link ClientError} if the server does not have the run any more (with the code of the response, for example
 * `FST_SSE_RUN_UNKNOWN`) or if the time is over (`TIMEOUT`), and with the reason of the `signal` if that aborts.
 */
export function resumableFetch ({ fetch = (input, init) => globalThis.fetch(input, init), timeout = 60_000 }: ResumableFetchOptions = {}): typeof globalThis.fetch {
  return async (input, init) => {
    const response = await fetch(input, init)
    const request: Partial<Request> = typeof input === 'object' && 'headers' in input ? input : {}
    const url = getResumeUrl(response, (init?.method ?? request.method ?? 'GET').toUpperCase(), request.url ?? String(input))
    if (url === undefined) return response
    const { credentials } = request
    const resume = (lastEventId: string, signal: AbortSignal): Promise<Response> => {
      const headers = new Headers(init?.headers ?? request.headers)
      for (const name of ['content-type', 'content-length']) headers.delete(name)
      if (lastEventId !== '') headers.set('last-event-id', lastEventId)
      return fetch(url, { ...credentials !== undefined && { credentials }, ...init, method: 'GET', body: null, headers, signal })
    }
    const body = follow(response.body as ReadableStream<Bytes>, resume, init?.signal ?? request.signal, timeout)
    return Object.defineProperty(new Response(body, response), 'url', { value: response.url })
  }
}

/** Returns the URL at which a response can be resumed; `undefined` if it cannot. */
function getResumeUrl ({ ok, body, headers, url }: Response, method: string, requestUrl: string): string | undefined {
  if (!ok || !body || !/^text\/event-stream\b/i.test(headers.get('content-type') ?? '')) return undefined
  const location = headers.get('location')
  if (location === null) return method === 'GET' ? requestUrl : undefined
  if (url === '') return location
  const resumeUrl = new URL(location, url)
  // Another server must not receive the headers of the request.
  return resumeUrl.origin === new URL(url).origin ? resumeUrl.href : undefined
}

type Bytes = Uint8Array<ArrayBuffer>
type Reader = ReadableStreamDefaultReader<Bytes>

/** Returns the blocks of the first body, and those of the responses that resume it. */
function follow (first: ReadableStream<Bytes>, resume: (lastEventId: string, signal: AbortSignal) => Promise<Response>, signal: AbortSignal | null | undefined, timeout: number): ReadableStream<Bytes> {
  const retrySettings = { retryDelay: 1000 }
  const backoff = createBackoff(retrySettings)
  let reader: Reader | undefined = first.getReader()
  let controller = new AbortController()
  let splitter = createSplitter()
  let lastEventId = ''
  // Whether anything was forwarded, and whether an event or a comment was.
  let isForwarding = false
  let isStarted = false
  // Whether the current response continues the body, and has sent no event yet.
  let isResuming = false
  let isOver = false
  // By a clock that nobody can set.
  let lostAt: number | undefined
  let retryAfter = 0
  let removeAbort = (): void => {}

  const disconnect = (): void => {
    controller.abort()
    reader?.cancel().catch(() => {})
    reader = undefined
  }

  const finish = (): void => {
    isOver = true
    disconnect()
    backoff.stop()
    removeAbort()
  }

  /** Opens the next response. Returns `undefined` if the client has received everything. */
  const reconnect = async (): Promise<Reader | undefined> => {
    controller = new AbortController()
    splitter = createSplitter()
    isResuming = isForwarding
    retryAfter = 0
    const response = await limitTime(resume(lastEventId, controller.signal))
    const { status, body, headers } = response
    if (status === 204) return undefined
    if (body && status === 200 && /^text\/event-stream\b/i.test(headers.get('content-type') ?? '')) return body.getReader()
    retryAfter = Math.max(0, parseRetryAfter(response))
    const error = createResponseError({ status, body: await limitTime(response.json()).catch(() => {}) })
    if (!isTransient(status) && !response.ok) finish()
    throw error
  }

  /** Waits before the next attempt. Throws if there must be none. */
  const handleLoss = async (error: unknown): Promise<void> => {
    if (isOver) throw error
    // Without an id, a new response would repeat what was forwarded.
    if (isStarted && lastEventId === '') {
      finish()
      throw error
    }
    disconnect()
    lostAt ??= performance.now()
    if (performance.now() - lostAt + retryAfter >= timeout) {
      finish()
      throw new ClientError('TIMEOUT', `The response could not be resumed within ${timeout} ms`, { cause: error })
    }
    await backoff.wait(retryAfter)
  }

  /** Returns the next complete blocks; `undefined` at the end. */
  const read = async (): Promise<Bytes | undefined> => {
    while (!isOver) {
      try {
        reader ??= await reconnect()
        if (reader === undefined) break
        const { done, value } = await limitTime(reader.read())
        if (isOver) break
        if (done) {
          isOver = true
          return splitter.rest()
        }
        const blocks = handleBlocks(splitter.push(value))
        if (blocks.length > 0) return blocks
      } catch (error) {
        await handleLoss(error)
      }
    }
    return undefined
  }

  /** Reads the last id and retry delay of the blocks. Returns the blocks without what was forwarded before. */
  const handleBlocks = (blocks: Bytes): Bytes => {
    const text = new TextDecoder().decode(blocks)
    // These patterns do not use the flag `m`, with which `^` and `$` also match at U+2028. Data can contain it, and it does not end a line of an event stream.
    lastEventId = findLast(text, /(?:^|[\r\n])id: ?([^\0\r\n]*)(?![^\r\n])/g) ?? lastEventId
    retrySettings.retryDelay = Number(findLast(text, /(?:^|[\r\n])retry: ?(\d+)(?![^\r\n])/g) ?? retrySettings.retryDelay)
    // A response that resumes another one starts with its id and retry delay, which were forwarded before.
    const preamble = new TextEncoder().encode(PREAMBLE.exec(text)?.[0]).length
    const forwarded = blocks.subarray(isResuming ? preamble : 0)
    if (preamble < blocks.length) {
      isStarted = true
      isResuming = false
      // Only if something follows the preamble: a server that aborts each response after the preamble makes no progress.
      lostAt = undefined
      backoff.reset()
    }
    isForwarding ||= forwarded.length > 0
    return forwarded
  }

  return new ReadableStream({
    start (sink) {
      if (!signal) return
      const onAbort = (): void => {
        finish()
        sink.error(abortReason(signal))
      }
      removeAbort = () => { signal.removeEventListener('abort', onAbort) }
      signal.addEventListener('abort', onAbort)
      // The `fetch` of the app may do more after the response, during which the signal may abort.
      if (signal.aborted) onAbort()
    },
    async pull (sink) {
      const blocks = await read()
      if (blocks) {
        sink.enqueue(blocks)
      } else {
        finish()
        sink.close()
      }
    },
    cancel: finish
  }, { highWaterMark: 0 })
}

/** Rejects if a promise has not settled in time. */
function limitTime<T> (promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimer(() => { reject(new ClientError('SILENT', 'The connection is dead')) }, IDLE_TIMEOUT)
    promise.then(resolve, reject).finally(() => { clearTimeout(timer) })
  })
}

const findLast = (text: string, pattern: RegExp): string | undefined => [...text.matchAll(pattern)].at(-1)?.[1]

/** [WHATWG HTML 9.2.6] Separates the complete blocks of one response from the incomplete one at its end. */
function createSplitter () {
  let pending: Bytes[] = []
  let isEmptyLine = true
  let isAfterCr = false
  return {
    /** Adds bytes. Returns all blocks that are complete now. */
    push (bytes: Bytes): Bytes {
      let end = 0
      for (let index = 0; index < bytes.length; index++) {
        const byte = bytes[index]
        const isLineEnd = byte === LF || byte === CR
        // The LF of a CRLF belongs to the line that the CR has ended.
        if (!(byte === LF && isAfterCr)) {
          if (isLineEnd && isEmptyLine) end = index + 1
          isEmptyLine = isLineEnd
        }
        isAfterCr = byte === CR
      }
      pending.push(bytes.subarray(0, end))
      const blocks = end === 0 ? new Uint8Array() : join(pending)
      if (end > 0) pending = []
      pending.push(bytes.subarray(end))
      return blocks
    },
    /** Returns the incomplete block; `undefined` if there is none. */
    rest (): Bytes | undefined {
      const rest = join(pending)
      return rest.length === 0 ? undefined : rest
    }
  }
}

function join (parts: readonly Bytes[]): Bytes {
  const joined = new Uint8Array(parts.reduce((length, part) => length + part.length, 0))
  let offset = 0
  for (const part of parts) {
    joined.set(part, offset)
    offset += part.length
  }
  return joined
}
