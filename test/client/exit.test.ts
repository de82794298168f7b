import t from 'tap'
import { forced } from '../support/clients.js'
import { evaluate } from '../support/evaluate.js'
import { open, scriptedServer, status, stream, welcome } from './support/scripted-server.js'
import { serve } from '../support/server.js'

for (const build of ['node', 'index']) {
  t.test(`a process whose session is over exits, lost messages or not (${build}.js)`, async t => {
    const { url } = await serve(t, {}, { fastify: forced })
    const { code, output } = await evaluate(t, `
      import { connect } from './lib/client/${build}.js'
      const session = connect('${url}')
      await session.send({ text: 'x' })
      session.send(1n)
      await session.close()
      session.send({ text: 'late' })
      connect('http://127.0.0.1:1').close()
      console.log('done')`)
    t.equal(output, 'done\n')
    t.equal(code, 0)
  })

  // Longer than the process is waited for.
  t.test(`a session that is over leaves no timer, whatever it was waiting for (${build}.js)`, async t => {
    const { url } = await scriptedServer(t, [
      open('retry: 100000\n\n', welcome(false, 's', { heartbeatInterval: 100_000 })),
      stream('retry: 100000\n\n', welcome())
    ], [status(503, { 'retry-after': '100' })])
    const { code, output } = await evaluate(t, `
      import { connect } from './lib/client/${build}.js'
      const answered = connect('${url}')
      await answered.request('a', 1, { timeout: 500 }).catch(({ code }) => console.log(code))
      const left = connect('${url}')
      await new Promise(resolve => left.on('disconnect', resolve))
      const refused = answered.request('a', 2).catch(({ code }) => console.log(code))
      await Promise.all([answered.close(), left.close(), refused])
      console.log(process.getActiveResourcesInfo().includes('Timeout'))`)
    t.equal(output, 'TIMEOUT\nCLOSED\nfalse\n')
    t.equal(code, 0)
  })
}
