import type { FastifyReply, FastifyRequest, onSendHookHandler, RouteOptions } from 'fastify'
import { greet } from '../echo.js'
import { asError, NotAcceptable, SessionUnknown, StoreUnavailable } from '../errors.js'
import { ignore } from '../promises.js'
import type { Arrival, Session } from '../session.js'
import type { Sessions } from '../sessions.js'
import { ResponseSink } from '../stream/transport.js'
import { CLOSED_ID, parseEventId } from '../wire/event-id.js'
import { frameRetry, serialize } from '../wire/frame.js'
import { LAST_EVENT_ID, RESUME, SESSION_ID, STREAM_HEADERS } from '../wire/headers.js'
import { header } from './identify.js'

/** GET of the downward path: opens a session's stream, or resumes it. */
export function downwardRoute (sessions: Sessions): RouteOptions {
  const { routes: { downward }, downwardPath } = sessions.settings
  return {
    ...downward,
    method: 'GET',
    url: downwardPath,
    exposeHeadRoute: false,
    // Last of all, so that every other hook has run when the response is taken over.
    onSend: [downward.onSend ?? [], takeOver].flat(),
    // Not async: Fastify would hold the Reply until the promise of a stream's end.
    handler: (request, reply) => {
      const sink = new ResponseSink(reply.raw)
      arrive(sessions, request, reply, sink).catch((error: unknown) => {
        if (error instanceof StoreUnavailable) comeLater(sessions, reply)
        else reply.send(asError(error))
      })
    }
  }
}

async function arrive (sessions: Sessions, request: FastifyRequest, reply: FastifyReply, sink: ResponseSink): Promise<void> {
  const lastEventId = header(request, LAST_EVENT_ID)
  if (lastEventId === CLOSED_ID) {
    // [WHATWG HTML 9.2.1] A 204 tells an EventSource to stop reconnecting.
    reply.code(204).send()
    return
  }
  if (!accepts(header(request, 'accept'))) throw new NotAcceptable()
  if (sessions.closing) {
    comeLater(sessions, reply)
    return
  }
  const principal = await sessions.settings.principal(request)
  const last = lastEventId === undefined ? undefined : parseEventId(lastEventId)
  const id = last?.sessionId ?? header(request, SESSION_ID)
  const returns = lastEventId !== undefined || id !== undefined
  const known = id === undefined ? undefined : await sessions.resumable(id, principal)
  // The client may have left while its session was looked for, or before.
  if (sink.closed) return
  if (known !== undefined) {
    const order = known.hold()
    const welcome = await welcomeBack(sessions, known, request)
    await open(sessions, known, { sink, welcome, resumed: true, order, cursor: last?.position ?? known.cursor }, reply)
    return
  }
  if (returns && header(request, RESUME) === 'required') throw new SessionUnknown()
  const session = await sessions.open(principal)
  if (session === undefined) {
    request.log.warn('a session was refused: there are too many; see maxSessions and maxSessionsPerPrincipal')
    comeLater(sessions, reply)
    return
  }
  // What the app sends from here on, in onOpen first of all, follows the welcome.
  const cursor = session.cursor
  const welcome = await introduce(sessions, session, returns, request)
  await open(sessions, session, { sink, welcome, resumed: false, order: 0, cursor }, reply)
}

/** Presents a new session to the app, which may refuse it. Answers with the data of its welcome. */
async function introduce (sessions: Sessions, session: Session, returns: boolean, request: FastifyRequest): Promise<string> {
  const previous = returns ? { previous: 'unknown' } : {}
  try {
    const told = sessions.hooks.has('onOpen')
      ? await sessions.hooks.welcome('onOpen', session, request)
      : sessions.dispatcher.echoes ? greet() : {}
    return welcomeData(sessions, session, false, { ...previous, ...told })
  } catch (error) {
    await sessions.discard(session, 'refused')
    throw error
  }
}

/** Tells the app that a client is back, which it may refuse. Answers with the data of the welcome. */
async function welcomeBack (sessions: Sessions, session: Session, request: FastifyRequest): Promise<string> {
  try {
    return welcomeData(sessions, session, true, session.closed ? {} : await sessions.hooks.welcome('onResume', session, request))
  } catch (error) {
    session.release()
    throw error
  }
}

/** The data of the welcome event: the app's may add to ours, not replace it. */
function welcomeData ({ settings: { heartbeatInterval } }: Sessions, { id: sessionId }: Session, resumed: boolean, told: object): string {
  const ours = { sessionId, resumed, ...heartbeatInterval !== false && { heartbeatInterval } }
  return serialize({ ...ours, ...told, ...ours })
}

async function open (sessions: Sessions, session: Session, arrival: Omit<StreamRequest, 'head' | 'log'>, reply: FastifyReply): Promise<void> {
  const { sink, cursor, resumed } = arrival
  // Until the stream begins: the client leaves, or the app answers in our place, by a timeout or a hook that throws.
  // Then nobody has learnt of a new session, and nobody can come back to it.
  const abandon = (): void => {
    if (resumed) session.abandon()
    else sessions.discard(session, 'aborted')
  }
  let head: number | undefined
  try {
    if (!sink.closed) head = await sessions.admit(session, cursor)
  } finally {
    // Not before the store has answered: what it is still about to give could not be taken back.
    if (sink.closed) abandon()
    else sink.listener = { drained: ignore, closed: abandon }
  }
  if (sink.closed) return
  if (head === undefined) {
    comeLater(sessions, reply)
    return
  }
  reply.headers(STREAM_HEADERS).header(SESSION_ID, session.id)
  reply.send(new Opening(sessions, session, { ...arrival, head, log: reply.request.log }))
}

/** An arrival whose response is not begun. */
type StreamRequest = Arrival & { readonly sink: ResponseSink }

/** What is sent to Fastify in the place of a body: it travels through the hooks, to be recognised by the last of them. */
class Opening {
  /** Has Fastify take it for a stream, which it neither serializes nor measures. */
  readonly pipe = ignore
  readonly #sessions: Sessions
  readonly #session: Session
  readonly #arrival: StreamRequest

  constructor (sessions: Sessions, session: Session, arrival: StreamRequest) {
    this.#sessions = sessions
    this.#session = session
    this.#arrival = arrival
  }

  begin (reply: FastifyReply): void {
    const { sink, resumed } = this.#arrival
    if (sink.closed || reply.sent) return
    if (!this.#sessions.closing) {
      sink.begin(reply)
      this.#session.attach(this.#arrival)
      return
    }
    // The server began to close while the hooks ran: it waits for this response, and for no new stream.
    sink.begin(reply)
    sink.end(frameRetry(this.#sessions.retry()))
    if (!resumed) this.#session.close('shutdown')
  }
}

const takeOver: onSendHookHandler<unknown> = (_request, reply, payload, done) => {
  if (payload instanceof Opening) payload.begin(reply)
  else done(null, payload)
}

/** Answers what may be well soon. A status other than 200 would end a native EventSource for good. */
function comeLater (sessions: Sessions, reply: FastifyReply): void {
  reply.headers(STREAM_HEADERS).send(frameRetry(sessions.retry()))
}

function accepts (accept = '*/*'): boolean {
  return accept === 'text/event-stream' || accept.split(',').some(range => {
    const [type = '', ...parameters] = range.split(';').map(part => part.trim().toLowerCase())
    return ['text/event-stream', 'text/*', '*/*'].includes(type) && !parameters.some(parameter => /^q=0(\.0*)?$/.test(parameter))
  })
}
