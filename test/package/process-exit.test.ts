import t from 'tap'
import { runSource } from '../support/run-source.js'

const REGISTER = `
  import { connect } from 'node:net'
  import Fastify from 'fastify'
  import sseSessions from './lib/index.js'
  import { injectSession } from './lib/testing.js'
  const app = Fastify()
  await app.register(sseSessions, { heartbeatInterval: 60_000, resumeTimeout: 60_000 })
`

const CASES: Array<[what: string, source: string]> = [
  ['has registered the plugin', 'await app.ready()'],
  ['has opened and closed a session', `
    const session = await injectSession(app)
    await app.sseSessions.broadcast('news', 1)
    await (await app.sseSessions.find(session.id)).close()
    for await (const { event } of session) console.log(event)`],
  ['has an open session, with entries in its log and in the log of a channel', `
    const { id } = await injectSession(app)
    const session = await app.sseSessions.find(id)
    await session.join('room')
    await session.send('hello')
    await app.sseSessions.channel('room').send('hello')`],
  ['has a session without a stream, and a producer that waits for it', `
    await app.listen({ port: 0, host: '127.0.0.1' })
    app.server.unref()
    const lost = new Promise(resolve => app.sseSessions.addHook('onDisconnect', resolve))
    const socket = connect(app.server.address().port, '127.0.0.1')
    socket.write('GET /downward HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n')
    socket.once('data', () => socket.destroy())
    const session = await lost
    session.stream('tick', (function * () { for (let n = 0; ; n++) yield n })())`],
  ['has closed the server', `
    await app.listen({ port: 0, host: '127.0.0.1' })
    await app.close()`]
]

for (const [what, source] of CASES) {
  t.test(`a process exits if it ${what} and has nothing else to do`, async t => {
    const { code, output } = await runSource(t, REGISTER + source + '\nconsole.log("done")')
    t.match(output, /done\n$/)
    t.equal(code, 0, output)
  })
}

t.test('rejected calls that nobody awaits do not end the process, even on a closed session', async t => {
  const { code, output } = await runSource(t, `${REGISTER}
    const { id } = await injectSession(app)
    const session = await app.sseSessions.find(id)
    await session.join('room')
    await session.close()
    session.send('after the end')
    session.emit('after the end', 1)
    session.stream('after the end', [1])
    session.update({ afterEnd: true })
    session.join('room')
    session.leave('room')
    session.close()
    app.sseSessions.channel('room').send(1n)
    app.sseSessions.broadcast('', 1)
    await new Promise(resolve => setTimeout(resolve, 1))
    await session.send('after the end').catch(({ code }) => console.log(code))`)
  t.match(output, 'FST_SSE_SESSION_OVER\n')
  t.equal(code, 0, output)
})
