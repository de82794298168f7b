import type { Test } from 'tap'
import { deleteSession, openStream, postMessage, type ClientStream, type StreamEvent } from '../support/http-client.js'
import { withTimeout } from '../support/wait.js'
import { Report } from './report.js'

const COUNT = 1000
const BATCH = 100
const UNKNOWN_SESSION = 'A'.repeat(24)
/** Milliseconds by which a heartbeat can be late. */
const LATE = 2000
/** The longest heartbeat interval that is waited for. */
const LONGEST_WAIT = 20_000

const R = {
  open: 'opens a session with 200, text/event-stream and no-store',
  welcome: 'sends welcome first, with the session id of the header and an id',
  message: 'responds to a message with the value of its handler, and sends the event with an id',
  connected: 'sends X-Session-Connected: true while the session has a stream',
  repeat: 'handles a repeat with the same key once, and responds to it with Idempotent-Replayed',
  reused: 'responds with 422 if a key is used for other data',
  malformed: 'responds with 400 to invalid JSON, and to a message without a session id',
  type: 'responds with 415 to another content type',
  unknownEvent: 'responds with 404 FST_SSE_EVENT_UNKNOWN to an unknown event name',
  unknownSession: 'responds with 404 FST_SSE_SESSION_UNKNOWN to a message for an unknown session',
  batch: 'handles a batch in order, with one result for each message, also of repeats and errors',
  malformedBatch: 'handles no message of a batch with a malformed line, and responds with 400',
  order: 'sends 1,000 events in order, and resumes after each of 10 cuts with exactly the missing events',
  resumed: 'sends welcome with resumed: true and the id that the client has sent',
  again: 'sends all later events again to a client that resumes from an earlier id',
  previous: 'opens a new session with previous: "unknown" for an unknown session',
  required: 'responds with 404 FST_SSE_SESSION_UNKNOWN to X-Resume: required for an unknown session',
  stop: 'responds with 204 to Last-Event-ID: closed',
  replaced: 'ends the first stream with replaced, with the id "closed", when a second one resumes the session',
  heartbeat: 'writes to an idle stream within the heartbeat interval',
  delete: 'closes a session with DELETE: 204, then close with the reason deleted and the id "closed", and the end of the stream',
  closed: 'responds with 404 FST_SSE_SESSION_UNKNOWN to messages for a closed session, and to another DELETE',
  resumeClosed: 'sends the missing events and close to a client that resumes a closed session'
} as const

const createReport = (): Report => new Report(Object.values(R).map(text => [text === R.heartbeat || text === R.connected ? 'should' : 'must', text]))

interface Data { readonly n: number }
interface Welcome { readonly sessionId?: string, readonly resumed?: boolean, readonly previous?: string, readonly heartbeatInterval?: number }
interface Result { readonly status?: number, readonly replayed?: boolean, readonly body?: { readonly code?: string } }

const numbersIn = (events: readonly StreamEvent[]): number[] => events.filter(({ event }) => event === 'echo').map(({ data }) => (data as Data).n)
const welcomeOf = ({ events }: ClientStream): Welcome => (events[0]?.data ?? {}) as Welcome
const codeOf = (body: unknown): string | undefined => (body as { code?: string } | null)?.code
const isUnknown = ({ status, body }: { status: number, body: unknown }): boolean => status === 404 && codeOf(body) === 'FST_SSE_SESSION_UNKNOWN'
const range = (first: number, last: number): number[] => Array.from({ length: last - first + 1 }, (_, index) => first + index)

/**
 * Checks a server whose handler of the message `echo` sends the event `echo` with the same data, and returns the data. Resolves
 * with the table of requirements.
 */
export async function checkServer (t: Test, url: string): Promise<Report> {
  const report = createReport()
  try {
    await assertEchoes(t, url)
  } catch (error) {
    report.problems.push(String(error))
    return report
  }
  for (const check of [checkMessages, checkBatches, checkResuming, checkUnknown, checkHeartbeat, checkClosing]) {
    try {
      await check(t, url, report)
    } catch (error) {
      report.problems.push(`${check.name}: ${String(error)}`)
    }
  }
  return report
}

async function echo (url: string, { sessionId }: ClientStream, n: number, key?: string): ReturnType<typeof postMessage> {
  return await postMessage(url, sessionId, { n }, { event: 'echo', ...key !== undefined && { key } })
}

const waitForEcho = async (stream: ClientStream, n: number): Promise<StreamEvent> => await stream.waitFor(({ event, data }) => event === 'echo' && (data as Data).n === n, `the event ${n}`)

async function postBatch (url: string, { sessionId }: ClientStream, lines: readonly unknown[]): ReturnType<typeof postMessage> {
  return await postMessage(url, sessionId, lines.map(line => JSON.stringify(line)).join('\n'), { headers: { 'content-type': 'application/x-ndjson' } })
}

/** Without the handler, the checks would wait for many events in vain. */
async function assertEchoes (t: Test, url: string): Promise<void> {
  const stream = await openStream(t, url)
  const { status, body } = await echo(url, stream, 0)
  stream.destroy()
  if (status !== 200) throw new Error(`The message "echo" got the status ${status} ${codeOf(body) ?? ''}. Add a handler for it, which sends the event "echo" with the same data, and returns the data`)
}

async function checkMessages (t: Test, url: string, report: Report): Promise<void> {
  const stream = await openStream(t, url, { headers: { accept: 'text/event-stream' } })
  report.check(R.open, stream.status === 200 && /^text\/event-stream/.test(String(stream.headers['content-type'])) && /no-store/.test(String(stream.headers['cache-control'])))
  const [first] = stream.events
  report.check(R.welcome, first?.event === 'welcome' && first.id !== undefined && welcomeOf(stream).sessionId === stream.sessionId && welcomeOf(stream).resumed === false)
  const response = await echo(url, stream, 1, 'k1')
  const event = await waitForEcho(stream, 1)
  report.check(R.message, response.status === 200 && (response.body as Data).n === 1 && event.id !== undefined)
  report.check(R.connected, response.headers['x-session-connected'] === 'true')
  const repeated = await echo(url, stream, 1, 'k1')
  await echo(url, stream, 2, 'k2')
  await waitForEcho(stream, 2)
  report.check(R.repeat, repeated.status === 200 && repeated.headers['idempotent-replayed'] === 'true' && numbersIn(stream.events).join() === '1,2')
  report.check(R.reused, (await echo(url, stream, 3, 'k1')).status === 422)
  const invalid = await postMessage(url, stream.sessionId, '{', { event: 'echo' })
  const anonymous = await postMessage(url, '', { n: 3 }, { event: 'echo' })
  report.check(R.malformed, invalid.status === 400 && anonymous.status === 400)
  report.check(R.type, (await postMessage(url, stream.sessionId, '3', { event: 'echo', headers: { 'content-type': 'text/plain' } })).status === 415)
  const unknown = await postMessage(url, stream.sessionId, {}, { event: 'no-such-event' })
  report.check(R.unknownEvent, unknown.status === 404 && codeOf(unknown.body) === 'FST_SSE_EVENT_UNKNOWN')
  stream.destroy()
}

async function checkBatches (t: Test, url: string, report: Report): Promise<void> {
  const stream = await openStream(t, url)
  const lines = [1, 2, 3].map(n => ({ event: 'echo', data: { n }, id: `b${n}` }))
  const response = await postBatch(url, stream, [...lines, { event: 'no-such-event' }, lines[0]])
  const results = response.body as Result[]
  await waitForEcho(stream, 3)
  report.check(R.batch, response.status === 200 && results.map(({ status }) => status).join() === '200,200,200,404,200' && results[4]?.replayed === true && numbersIn(stream.events).join() === '1,2,3')
  const malformed = await postBatch(url, stream, [{ event: 'echo', data: { n: 4 } }, 'no object'])
  await echo(url, stream, 5)
  await waitForEcho(stream, 5)
  report.check(R.malformedBatch, malformed.status === 400 && !numbersIn(stream.events).includes(4))
  stream.destroy()
}

async function checkResuming (t: Test, url: string, report: Report): Promise<void> {
  let stream = await openStream(t, url)
  const received: StreamEvent[] = []
  for (let n = 1; n <= COUNT; n += BATCH) {
    const lines = range(n, n + BATCH - 1).map(n => ({ event: 'echo', data: { n }, id: String(n) }))
    const isCut = stream.waitFor(({ event, data }) => event === 'echo' && (data as Data).n >= n + BATCH / 2, 'half of a batch')
    await Promise.all([postBatch(url, stream, lines), isCut])
    // What arrives after the end of the stream does not count.
    received.push(...stream.events.splice(0).filter(({ event }) => event === 'echo'))
    stream.destroy()
    const cursor = received.at(-1)?.id ?? ''
    stream = await openStream(t, url, { headers: { 'last-event-id': cursor } })
    report.check(R.resumed, welcomeOf(stream).resumed === true && stream.events[0]?.id === cursor)
  }
  if (received.length < COUNT) {
    await waitForEcho(stream, COUNT)
    received.push(...stream.events.filter(({ event }) => event === 'echo'))
  }
  report.check(R.order, numbersIn(received).join() === range(1, COUNT).join(), `${received.length} events`)
  const second = await openStream(t, url, { headers: { 'last-event-id': received.at(-BATCH)?.id ?? '' } })
  const replaced = await stream.waitFor(({ event }) => event === 'replaced', 'the event "replaced"')
  await withTimeout(stream.ended, 'the end of the replaced stream')
  report.check(R.replaced, replaced.id === 'closed')
  await waitForEcho(second, COUNT)
  report.check(R.again, numbersIn(second.events).join() === range(COUNT - BATCH + 2, COUNT).join())
  second.destroy()
}

async function checkUnknown (t: Test, url: string, report: Report): Promise<void> {
  report.check(R.unknownSession, isUnknown(await postMessage(url, UNKNOWN_SESSION, { n: 1 }, { event: 'echo' })))
  const stream = await openStream(t, url, { headers: { 'x-session-id': UNKNOWN_SESSION } })
  report.check(R.previous, welcomeOf(stream).previous === 'unknown' && welcomeOf(stream).resumed === false && stream.sessionId !== UNKNOWN_SESSION)
  stream.destroy()
  const required = await fetch(`${url}/downward`, { headers: { 'x-session-id': UNKNOWN_SESSION, 'x-resume': 'required' } })
  report.check(R.required, required.status === 404 && codeOf(await required.json()) === 'FST_SSE_SESSION_UNKNOWN')
  const stopped = await fetch(`${url}/downward`, { headers: { 'last-event-id': 'closed' } })
  report.check(R.stop, stopped.status === 204)
}

async function checkHeartbeat (t: Test, url: string, report: Report): Promise<void> {
  const stream = await openStream(t, url)
  const { heartbeatInterval } = welcomeOf(stream)
  if (heartbeatInterval === undefined || heartbeatInterval > LONGEST_WAIT) {
    report.check(R.heartbeat, true, `not waited for: the interval is ${heartbeatInterval ?? 'none'}`)
  } else {
    await withTimeout(new Promise(resolve => { stream.body.once('data', resolve) }), 'a heartbeat', heartbeatInterval + LATE)
    report.check(R.heartbeat, true, `${heartbeatInterval} ms`)
  }
  stream.destroy()
}

async function checkClosing (t: Test, url: string, report: Report): Promise<void> {
  const stream = await openStream(t, url)
  await echo(url, stream, 1)
  const { id = '' } = await waitForEcho(stream, 1)
  await echo(url, stream, 2)
  const { status } = await deleteSession(url, stream.sessionId)
  const { data, id: lastId } = await stream.waitFor(({ event }) => event === 'close', 'the event "close"')
  await withTimeout(stream.ended, 'the end of the stream')
  report.check(R.delete, status === 204 && (data as { reason?: string }).reason === 'deleted' && lastId === 'closed')
  report.check(R.closed, isUnknown(await echo(url, stream, 3)) && isUnknown(await deleteSession(url, stream.sessionId)))
  const resumed = await openStream(t, url, { headers: { 'last-event-id': id } })
  await resumed.waitFor(({ event }) => event === 'close', 'the event "close" of a resumed session')
  report.check(R.resumeClosed, numbersIn(resumed.events).join() === '2')
}
