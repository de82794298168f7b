// A server in a separate process, whose memory a test measures while clients attack it.
import Fastify from 'fastify'
import type { AddressInfo } from 'node:net'
import sseSessions, { type SseSessionsOptions } from '../../../lib/index.js'

export type Report = { readonly port: number } | { readonly bytes: number }

const MEGABYTE = 'x'.repeat(2 ** 20 - 2000)
const report = (report: Report): void => { process.send?.(report) }
const app = Fastify()
await app.register(sseSessions, { closeTimeout: 100, ...JSON.parse(process.argv[2] ?? '{}') as SseSessionsOptions })
let handled = 0
// A new string each time, because equal texts that share their memory would hide a leak.
const createText = (): string => Buffer.from(`${++handled} ${MEGABYTE}`).toString()
app.sseSessions.handle('respond', createText)
app.sseSessions.handle('hang', () => new Promise(() => {}))
app.sseSessions.handle('count', () => handled)
app.sseSessions.handle('send', async session => { await session.send(createText()) })
app.sseSessions.handle('visit', async (session, name) => {
  await session.join(String(name))
  await app.sseSessions.channel(String(name)).send(createText())
  await session.leave(String(name))
})
await app.listen({ port: 0, host: '127.0.0.1' })

process.on('message', () => {
  globalThis.gc?.()
  const { heapUsed, external } = process.memoryUsage()
  report({ bytes: heapUsed + external })
})
process.on('disconnect', () => { process.exit() })
report({ port: (app.server.address() as AddressInfo).port })
