import t from 'tap'
import { runSource } from '../support/run-source.js'

for (const build of ['node', 'index']) {
  // The server is minimal, because the measured memory includes it.
  t.test(`memory stays constant over 30,000 events and messages, even after an iterator ended early (${build}.js)`, async t => {
    const { code, output } = await runSource(t, `
      import { createServer } from 'node:http'
      import { connect } from './lib/client/${build}.js'
      let stream
      const server = createServer(async (request, response) => {
        if (request.method === 'GET') {
          stream = response.writeHead(200, { 'content-type': 'text/event-stream' })
          stream.write('event: welcome\\ndata: {"sessionId":"s"}\\n\\n')
          return
        }
        const messages = (await request.toArray()).join('').split('\\n').filter(line => line !== '').map(line => JSON.parse(line))
        stream.write(messages.map(({ id, data }) => 'id: s.' + id + '\\ndata: ' + JSON.stringify(data) + '\\n\\n').join(''))
        response.end(JSON.stringify(messages.map(({ data }) => ({ status: 200, body: data }))))
      })
      await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
      const session = connect('http://127.0.0.1:' + server.address().port)
      const iterator = session[Symbol.asyncIterator]()
      const first = iterator.next()
      let down = 0
      let onRoundReceived = () => {}
      session.on('message', () => { if (++down % 3_000 === 0) onRoundReceived() })
      const bytes = []
      for (let round = 0; round < 10; round++) {
        const all = new Promise(resolve => { onRoundReceived = resolve })
        for (let batch = 0; batch < 3; batch++) await Promise.all(Array.from({ length: 1000 }, (_, n) => session.send({ n })))
        await all
        await first
        await iterator.return()
        for (let i = 0; i < 2; i++) {
          gc()
          await new Promise(resolve => setImmediate(resolve))
        }
        // In the first rounds the process still allocates what it needs only once, and a first collection frees only a part.
        if (round >= 3) bytes.push(process.memoryUsage().heapUsed)
      }
      await session.close()
      server.closeAllConnections()
      server.close()
      console.log(JSON.stringify(bytes))`, ['--expose-gc'], 80_000)
    t.equal(code, 0, output)
    t.comment(output)
    const bytes = JSON.parse(output) as number[]
    t.equal(bytes.length, 7)
    // A leak of 100 bytes per message would be 1.8 MB.
    t.ok(Math.max(...bytes.slice(-2)) - Math.min(...bytes) < 1e6, output)
  })
}
