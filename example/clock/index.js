// Sends the server's time ten times, once per second, and then closes the session. The page uses React.
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import sseSessions from 'fastify-sse-sessions'
import { build } from 'rolldown'
import { addPage } from '../site.js'

/** @import { FastifyInstance } from 'fastify' */

/** @param {FastifyInstance} app */
export default async function clock (app) {
  await app.register(sseSessions, { prefix: '/clock', retry: 500 })
  addPage(app, '/clock', 'Clock', 'clock/index.html')
  const script = await bundle('page.jsx')
  app.get('/clock/page.js', (_request, reply) => reply.type('text/javascript; charset=utf-8').send(script))

  app.sseSessions.addHook('onOpen', session => {
    // Not awaited, because the server sends the welcome after this hook. It rejects if the page is closed before the last tick.
    session.stream('message', ticks()).then(() => session.close('finished'), () => {})
  })
}

async function * ticks () {
  for (let tick = 1; tick <= 10; tick++) {
    yield { tick, time: new Date().toLocaleTimeString() }
    await sleep(1000)
  }
  yield { finished: true }
}

/** @param {string} module */
async function bundle (module) {
  const { output: [{ code }] } = await build({
    input: fileURLToPath(new URL(module, import.meta.url)),
    platform: 'browser',
    transform: { define: { 'process.env.NODE_ENV': '"production"' } },
    output: { minify: true },
    write: false,
    // The directive is for frameworks that also render on the server.
    onLog: (level, log, handler) => { if (log.code !== 'MODULE_LEVEL_DIRECTIVE') handler(level, log) }
  })
  return code
}
