// A server in a separate process, whose memory a test measures. It executes the commands that it receives over IPC.
import Fastify from 'fastify'
import type { AddressInfo } from 'node:net'
import sseSessions from '../../../lib/index.js'
import { FILL } from '../../support/wire.js'

export type Command = { readonly send: number, readonly from: number }
export type Report = { readonly port: number } | { readonly memory: number }

const report = (report: Report): void => { process.send?.(report) }
const app = Fastify()
await app.register(sseSessions, { closeTimeout: 100 })
await app.listen({ port: 0, host: '127.0.0.1' })

process.on('message', async ({ send, from }: Command) => {
  for (let n = from; n < from + send; n++) await app.sseSessions.broadcast('message', { n, FILL })
  // Garbage that was not collected yet must not count as a leak.
  if (from % 5 === 0) globalThis.gc?.()
  const { rss, external } = process.memoryUsage()
  report({ memory: rss + external })
})
process.on('disconnect', () => { process.exit() })
report({ port: (app.server.address() as AddressInfo).port })
