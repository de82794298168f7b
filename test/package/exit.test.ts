import t from 'tap'
import { evaluate } from '../support/evaluate.js'

const REGISTER = `
  import { connect } from 'node:net'
  import Fastify from 'fastify'
  import sseSessions from './lib/index.js'
  import { injectSession } from './lib/testing.js'
  const app = Fastify()
  await app.register(sseSessions, { heartbeatInterval: 60_000, resumeTimeout: 60_000 })
`

const CASES: Array<[what: string, source: string]> = [
  ['has the plugin registered', 'await app.ready()'],
  ['has opened a session, and ended it', `
    const session = await injectSession(app)
    await app.sseSessions.broadcast('news', 1)
    await (await app.sseSessions.find(session.id)).close()
    for await (const { event } of session) console.log(event)`],
  ['has a session that lives, with entries in its log and in a channel', `
    const { id } = await injectSession(app)
    const session = await app.sseSessions.find(id)
    await session.join('room')
    await session.send('hello')
    await app.sseSessions.channel('room').send('hello')`],
  ['has a session that waits for its client, and a producer that waits for the session', `
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
  t.test(`a process that ${what}, and has nothing else to do, exits`, async t => {
    const { code, output } = await evaluate(t, REGISTER + source + '\nconsole.log("done")')
    t.match(output, /done\n$/)
    t.equal(code, 0, output)
  })
}

t.test('a send that is not awaited, to a session that has ended, does not end the process', async t => {
  const { code, output } = await evaluate(t, `${REGISTER}
    const { id } = await injectSession(app)
    const session = await app.sseSessions.find(id)
    await session.join('room')
    await session.close()
    session.send('late')
    session.emit('late', 1)
    session.stream('late', [1])
    session.update({ late: true })
    session.join('room')
    session.leave('room')
    session.close()
    app.sseSessions.channel('room').send(1n)
    app.sseSessions.broadcast('', 1)
    await new Promise(resolve => setTimeout(resolve, 1))
    await session.send('late').catch(({ code }) => console.log(code))`)
  t.match(output, 'FST_SSE_SESSION_OVER\n')
  t.equal(code, 0, output)
})
