import t from 'tap'
import { serve } from '../support/server.js'
import { openStream } from '../support/http-client.js'
import { withTimeout } from '../support/wait.js'

t.test('sends only a retry delay while maxSessions sessions are open', async t => {
  const lines: string[] = []
  const { sessions, url } = await serve(t, { maxSessions: 2, retry: 5 }, { fastify: { logger: { level: 'warn', stream: { write: (line: string) => { lines.push(line) } } } } })
  const [first] = [await openStream(t, url), await openStream(t, url)]
  const refusal = await openStream(t, url, { skipWelcome: true })
  await withTimeout(refusal.ended, 'the end')
  t.strictSame([refusal.status, refusal.headers['content-type'], refusal.text()], [200, 'text/event-stream; charset=utf-8', 'retry: 5\n\n'])
  t.match(lines, [/maxSessions/])
  const resumed = await openStream(t, url, { headers: { 'x-session-id': first.sessionId } })
  t.match(resumed.events[0]?.data, { resumed: true })
  await (await sessions.find(first.sessionId))?.close()
  await openStream(t, url)
  t.equal(sessions.size, 2)
})

t.test('keeps the newest maxSessions closed sessions, and the others are unknown', async t => {
  const { sessions, url } = await serve(t, { maxSessions: 2 })
  const ids: string[] = []
  for (const reason of ['a', 'b', 'c']) {
    const { sessionId, ended } = await openStream(t, url)
    ids.push(sessionId)
    await (await sessions.find(sessionId))?.close(reason)
    await withTimeout(ended, 'the end')
  }
  const known: unknown[] = []
  for (const id of ids) {
    const { events } = await openStream(t, url, { headers: { 'x-session-id': id } })
    known.push((events[0]?.data as { resumed: boolean }).resumed)
  }
  t.strictSame(known, [false, true, true])
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
