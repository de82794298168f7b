// Run as a process of its own: a server whose memory a test watches. It does what it is told over IPC.
import Fastify from 'fastify'
import type { AddressInfo } from 'node:net'
import sseSessions from '../../../lib/index.js'
import { FILL } from '../../support/wire.js'

export type Order = { readonly send: number, readonly from: number }
export type Report = { readonly port: number } | { readonly memory: number }

const tell = (report: Report): void => { process.send?.(report) }
const app = Fastify()
await app.register(sseSessions, { closeTimeout: 100 })
await app.listen({ port: 0, host: '127.0.0.1' })

process.on('message', async ({ send, from }: Order) => {
  for (let n = from; n < from + send; n++) await app.sseSessions.broadcast('message', { n, FILL })
  // Often enough to tell a leak from litter.
  if (from % 5 === 0) globalThis.gc?.()
  const { rss, external } = process.memoryUsage()
  tell({ memory: rss + external })
})
process.on('disconnect', () => { process.exit() })
tell({ port: (app.server.address() as AddressInfo).port })
