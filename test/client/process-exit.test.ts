import t from 'tap'
import { FORCE_CLOSE } from '../support/clients.js'
import { runSource } from '../support/run-source.js'
import { endedStream, openStream, respond, scriptedServer, welcome } from './support/scripted-server.js'
import { serve } from '../support/server.js'

for (const build of ['node', 'index']) {
  t.test(`a process exits when its session is closed, even if messages failed (${build}.js)`, async t => {
    const { url } = await serve(t, {}, { fastify: FORCE_CLOSE })
    const { code, output } = await runSource(t, `
      import { connect } from './lib/client/${build}.js'
      const session = connect('${url}')
      await session.send({ text: 'x' })
      session.send(1n).catch(() => {})
      await session.close()
      session.send({ text: 'late' })
      connect('http://127.0.0.1:1').close()
      console.log('done')`)
    t.equal(output, 'done\n')
    t.equal(code, 0)
  })

  // All delays are longer than the test waits for the process.
  t.test(`a closed session leaves no timer (${build}.js)`, async t => {
    const { url } = await scriptedServer(t, [
      openStream('retry: 100000\n\n', welcome(false, 's', { heartbeatInterval: 100_000 })),
      endedStream('retry: 100000\n\n', welcome()),
      respond(503, { 'retry-after': '100' })
    ], [respond(503, { 'retry-after': '100' })])
    const { code, output } = await runSource(t, `
      import { connect } from './lib/client/${build}.js'
      const connected = connect('${url}')
      await connected.request('a', 1, { timeout: 500 }).catch(({ code }) => console.log(code))
      const disconnected = connect('${url}')
      await new Promise(resolve => disconnected.on('disconnect', resolve))
      const refused = connect('${url}')
      await new Promise(resolve => refused.on('error', resolve))
      const rejected = connected.request('a', 2).catch(({ code }) => console.log(code))
      await Promise.all([connected.close(), disconnected.close(), refused.close(), rejected])
      console.log(process.getActiveResourcesInfo().includes('Timeout'))`)
    t.equal(output, 'TIMEOUT\nCLOSED\nfalse\n')
    t.equal(code, 0)
  })
}
