import t from 'tap'
import { testEachClient, waitForEvent } from '../support/clients.js'
import { withTimeout } from '../support/wait.js'
import { CLOSE_EVENT, endedStream, openStream, scriptedServer, welcome } from './support/scripted-server.js'

const part = 'x'.repeat(10_000)
// A complete event in one chunk; an incomplete event with many lines; an incomplete event with one long line.
for (const chunks of [[`data: "${part}"\n\n`], Array<string>(30).fill(`data: ${part}\n`), ['data: "', ...Array<string>(30).fill(part)]]) {
  testEachClient(t, `an event larger than maxEventSize closes the session, in ${chunks.length} chunks`, async (t, connect) => {
    const server = await scriptedServer(t, [openStream(welcome(), ...chunks)])
    const session = connect(server.url, { maxEventSize: 200 })
    await t.rejects(withTimeout((async () => { for await (const event of session) t.fail(event.event) })(), 'the error'), { code: 'EVENT_TOO_LARGE' })
    await session.close()
    t.match(server.requests.map(({ method, headers }) => [method, headers['x-session-id']]), [['GET', undefined], ['DELETE', 's']])
  })
}

for (const [title, cuts] of [['as a whole', []], ['without its end', [-2]], ['in three parts', [30, -1]]] satisfies Array<[string, number[]]>) {
  testEachClient(t, `accepts data with maxEventSize characters, and rejects one character more, in chunks with the event ${title}`, async (t, connect) => {
    const chunks = [998, 999].flatMap(length => {
      const event = `id: s.1\nevent: message\ndata: "${'x'.repeat(length)}"\n\n`
      return [0, ...cuts].map((cut, index, starts) => event.slice(cut, starts[index + 1]))
    })
    const server = await scriptedServer(t, [openStream(welcome(), ...chunks)])
    const session = connect(server.url, { maxEventSize: 1000 })
    const lengths: number[] = []
    session.on('message', data => { lengths.push(String(data).length) })
    t.match(await withTimeout(waitForEvent(session, 'close'), 'the close event'), { reason: 'EVENT_TOO_LARGE' })
    t.strictSame(lengths, [998])
  })
}

testEachClient(t, 'maxEventSize applies to each event, not to many small events or comments together', async (t, connect) => {
  for (const block of ['data: 1\n\n', ': heartbeat\n']) {
    const server = await scriptedServer(t, [endedStream(welcome(), ...Array<string>(200).fill(block), CLOSE_EVENT)])
    t.strictSame(await waitForEvent(connect(server.url, { maxEventSize: 200 }), 'close'), { reason: 'the end' })
  }
})
