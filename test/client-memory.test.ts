import t from 'tap'
import { evaluate } from './support/evaluate.js'

for (const build of ['node', 'index']) {
  t.test(`memory is flat over 100,000 messages up and as many down (${build}.js)`, async t => {
    const { code, output } = await evaluate(t, `
      import Fastify from 'fastify'
      import sseSessions from './lib/index.js'
      import { connect } from './lib/client/${build}.js'
      const app = Fastify({ forceCloseConnections: true })
      await app.register(sseSessions)
      app.sseSessions.handle('message', async (session, data) => { await session.send(data) })
      const session = connect(await app.listen({ port: 0, host: '127.0.0.1' }))
      let down = 0
      session.on('message', () => { down++ })
      const bytes = []
      for (let round = 0; round < 10; round++) {
        for (let batch = 0; batch < 20; batch++) await Promise.all(Array.from({ length: 500 }, (_, n) => session.send({ n })))
        while (down < (round + 1) * 10_000) await new Promise(resolve => setTimeout(resolve, 1))
        for (let i = 0; i < 3; i++) {
          gc()
          await new Promise(resolve => setImmediate(resolve))
        }
        bytes.push(process.memoryUsage().heapUsed)
      }
      await session.close()
      await app.close()
      console.log(JSON.stringify(bytes))`, ['--expose-gc'])
    t.equal(code, 0, output)
    const [, , , ...bytes] = JSON.parse(output) as number[]
    t.comment(output)
    // 70,000 messages of a hundred bytes would be 7 MB.
    t.ok(Math.max(...bytes.slice(-2)) - Math.min(...bytes) < 2e6, output)
  })
}
