import t from 'tap'
import type { Session } from '../../lib/index.js'
import { matchList } from '../support/match-list.js'
import { serve } from '../support/server.js'
import { openStream, postMessage, type ClientStream } from '../support/http-client.js'
import { waitUntil, withTimeout } from '../support/wait.js'

t.test('sends only a retry delay while maxSessions sessions are open', async t => {
  const lines: string[] = []
  const { sessions, url } = await serve(t, { maxSessions: 2, retry: 5 }, { fastify: { logger: { level: 'warn', stream: { write: (line: string) => { lines.push(line) } } } } })
  const [first] = [await openStream(t, url), await openStream(t, url)]
  const refusal = await openStream(t, url, { skipWelcome: true })
  await withTimeout(refusal.ended, 'the end')
  t.strictSame([refusal.status, refusal.headers['content-type'], refusal.text()], [200, 'text/event-stream; charset=utf-8', 'retry: 5\n\n'])
  matchList(t, lines, [/maxSessions/])
  const resumed = await openStream(t, url, { headers: { 'x-session-id': first.sessionId } })
  t.match(resumed.events[0]?.data, { resumed: true })
  await (await sessions.find(first.sessionId))?.close()
  await openStream(t, url)
  t.equal(sessions.size, 2)
})

t.test('closed sessions count towards maxSessions, and the one that was closed first makes room', async t => {
  const { sessions, url } = await serve(t, { maxSessions: 2 })
  const ids: string[] = []
  for (const reason of ['a', 'b', 'c']) {
    const { sessionId, ended } = await openStream(t, url)
    ids.push(sessionId)
    await (await sessions.find(sessionId))?.close(reason)
    await withTimeout(ended, 'the end')
  }
  const statuses: number[] = []
  for (const id of ids) statuses.push((await openStream(t, url, { headers: { 'x-session-id': id, 'x-resume': 'required' }, skipWelcome: true })).status)
  t.strictSame(statuses, [404, 200, 200])
  t.equal(sessions.size, 0)
})

for (const [limit, principal] of [['maxSessions', undefined], ['maxSessionsPerPrincipal', () => 'ann']] as const) {
  t.test(`at ${limit}, the session that has waited longest and never sent a message is evicted`, async t => {
    const { sessions, url } = await serve(t, { [limit]: 3, ...principal !== undefined && { principal } })
    const closed: Array<[id: string, reason: string]> = []
    sessions.addHook('onClose', ({ id }, reason) => { closed.push([id, reason]) })
    const disconnect = async ({ sessionId, destroy }: ClientStream): Promise<void> => {
      const session = await sessions.find(sessionId)
      destroy()
      await waitUntil(() => session?.connected === false, 'the disconnect')
    }
    const [connected, posted, first] = [await openStream(t, url), await openStream(t, url), await openStream(t, url)]
    await postMessage(url, posted.sessionId, { text: 'hi' })
    await disconnect(posted)
    await disconnect(first)
    const newcomer = await openStream(t, url)
    t.strictSame(closed, [[first.sessionId, 'evicted']])
    await disconnect(newcomer)
    const other = await openStream(t, url, { headers: { 'x-session-id': newcomer.sessionId } })
    t.match(other.events[0]?.data, { resumed: true }, 'a session that was resumed is not idle any more')
    const refused = await openStream(t, url, { skipWelcome: true })
    await withTimeout(refused.ended, 'the end')
    t.match(refused.text(), /^retry: \d+\n\n$/, 'connected sessions and those that have sent a message stay')
    t.equal((await sessions.find(connected.sessionId))?.connected, true)
    t.equal((await sessions.find(posted.sessionId))?.connected, false)
  })
}

t.test('a session whose client has answered a request is not evicted', async t => {
  const { sessions, url } = await serve(t, { maxSessions: 1 })
  const stream = await openStream(t, url)
  const session = await sessions.find(stream.sessionId) as Session
  const answer = session.request('confirm')
  const { data } = await stream.waitFor(({ event }) => event === 'request')
  await postMessage(url, stream.sessionId, { request: (data as { request: string }).request }, { event: 'response' })
  await withTimeout(answer, 'the answer')
  stream.destroy()
  await waitUntil(() => !session.connected, 'the disconnect')
  const refused = await openStream(t, url, { skipWelcome: true })
  await withTimeout(refused.ended, 'the end')
  t.match(refused.text(), /^retry: \d+\n\n$/)
  t.equal(session.closed, false)
})

t.test('a session joins at most maxChannelsPerSession channels, and can join others when it has left some', async t => {
  const { sessions, url } = await serve(t, { maxChannelsPerSession: 2 })
  const session = await sessions.find((await openStream(t, url)).sessionId)
  if (session === undefined) throw new Error('no session')
  for (const name of ['a', 'b', 'b']) await session.join(name)
  await t.rejects(session.join('c'), { code: 'FST_SSE_TOO_MANY_CHANNELS', statusCode: 409 })
  await session.leave('a')
  await session.join('c')
  t.strictSame(session.channels, ['b', 'c'])
})

t.test('rejects an event larger than its log, and sends events of exactly that size', async t => {
  const { sessions, url } = await serve(t, { log: { bytes: 100 }, channelLog: { bytes: 200 } })
  const stream = await openStream(t, url)
  const session = await sessions.find(stream.sessionId)
  await session?.join('room')
  const room = sessions.channel('room')
  // `data: "…"` with two line feeds adds 10 bytes to the text, and `event: all` with a line feed 11 more.
  const createText = (bytes: number): string => 'é'.repeat(bytes / 2)
  const tooLarge = { code: 'FST_SSE_ENTRY_TOO_LARGE' }
  await t.rejects(async () => { await session?.send(createText(92)) }, tooLarge)
  await t.rejects(room.send(createText(192)), tooLarge)
  await t.rejects(sessions.broadcast('all', createText(190)), tooLarge)
  await session?.send(createText(90))
  await room.send(createText(190))
  await sessions.broadcast('all', createText(178))
  await stream.waitFor(({ event }) => event === 'all')
  t.strictSame(stream.events.slice(1).map(({ data }) => String(data).length), [45, 95, 89])
})
