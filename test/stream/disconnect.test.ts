import type { ServerResponse } from 'node:http'
import t from 'tap'
import { serve } from '../support/server.js'
import { openStream } from '../support/http-client.js'
import { PADDING, sendUntilStalled, recordOpenedSessions, waitForStreams, openRawClient } from '../support/raw-client.js'
import { waitUntil, withTimeout } from '../support/wait.js'

for (const state of ['stalled', 'reading', 'replaced', 'closing'] as const) {
  t.test(`after the disconnect of a ${state} client, nothing throws or is written, and send and close settle`, async t => {
    const unhandled: unknown[] = []
    const recordError = (error: unknown): void => { unhandled.push(error) }
    for (const event of ['uncaughtException', 'unhandledRejection']) {
      process.on(event, recordError)
      t.teardown(() => { process.off(event, recordError) })
    }
    const { sessions, port } = await serve(t)
    const opened = recordOpenedSessions(sessions)
    const lost: string[] = []
    let resumed = 0
    sessions.addHook('onDisconnect', ({ id }) => { lost.push(id) })
    sessions.addHook('onResume', () => { resumed++ })
    const clients = Array.from({ length: 30 }, () => openRawClient(t, port, { stalled: state !== 'reading' }))
    await waitForStreams(sessions, 30)
    const all = opened.map(({ session }) => session)
    if (state === 'stalled') await sendUntilStalled(all, () => sessions.broadcast('fill', PADDING))
    if (state === 'closing') for (const session of all) await session.close()
    if (state === 'replaced') {
      for (const { id } of all) clients.push(openRawClient(t, port, { stalled: true, headers: { 'x-session-id': id } }))
      await waitUntil(() => resumed === 30 && sessions.stats().streams === 30, 'the second streams')
    }
    const settled: Array<Promise<void>> = []
    for (const [index, { socket }] of clients.entries()) {
      // Disconnects happen in the same turn as writes and between them, and in every way a socket can end.
      settled.push(sessions.broadcast('fill', PADDING))
      if (index % 3 === 0) socket.resetAndDestroy()
      else if (index % 3 === 1) socket.destroy()
      else socket.end().destroySoon()
      if (index % 2 === 0) await new Promise(setImmediate)
      settled.push(...all.slice(index % 30, index % 30 + 1).map(session => session.send(PADDING)))
    }
    await withTimeout(Promise.allSettled(settled), 'what was sent')
    await waitUntil(() => sessions.stats().streams === 0, 'the loss of every stream')
    const written = opened.map(({ socket }) => socket.bytesWritten)
    await sessions.broadcast('fill', PADDING)
    for (const session of all) {
      if (state !== 'closing') await withTimeout(session.send(PADDING), 'send')
      await withTimeout(session.close(), 'close')
    }
    await new Promise(setImmediate)
    t.strictSame(opened.map(({ socket }) => socket.bytesWritten), written)
    t.strictSame(lost.sort(), state === 'closing' ? [] : all.map(({ id }) => id).sort(), 'each disconnect is reported once')
    t.strictSame(unhandled, [])
  })
}

t.test('a session whose response the app ends itself loses its stream, but no event', async t => {
  const responses: ServerResponse[] = []
  const { sessions, url } = await serve(t, {}, { beforeRegister: app => app.addHook('onRequest', async (_request, { raw }) => { responses.push(raw) }) })
  const stream = await openStream(t, url)
  const session = await sessions.find(stream.sessionId)
  responses[0]?.end()
  await session?.send('one')
  await withTimeout(stream.ended, 'the end of the stream')
  await waitUntil(() => session?.connected === false, 'the disconnect')
  const resumed = await openStream(t, url, { headers: { 'last-event-id': String(stream.events[0]?.id) } })
  await resumed.waitFor(({ data }) => data === 'one')
})
