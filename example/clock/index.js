// Sends the server's time ten times, once per second, and then closes the session. The page uses React.
import { setTimeout as sleep } from 'node:timers/promises'
import sseSessions from 'fastify-sse-sessions'
import { addBundle, addPage } from '../site.js'

/** @import { FastifyInstance } from 'fastify' */

/** @param {FastifyInstance} app */
export default async function clock (app) {
  await app.register(sseSessions, { prefix: '/clock', retry: 500 })
  addPage(app, '/clock', 'Clock', 'clock/index.html')
  addBundle(app, '/clock/page.js', 'clock/page.jsx')

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
