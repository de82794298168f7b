// CPU time to join, leave and close for sessions with few and with many channels: node bench/channels.js (after npm run build).
import Fastify from 'fastify'
import sseSessions from '../dist/index.js'

const app = Fastify()
await app.register(sseSessions, { maxChannelsPerSession: 100_000 })
const url = await app.listen({ port: 0, host: '127.0.0.1' })

/** Opens a session, and returns the microseconds of CPU time for each of its channels. Half of them are left, the others end with it. */
async function measure (count) {
  const controller = new AbortController()
  const { headers } = await fetch(`${url}/downward`, { signal: controller.signal })
  const session = await app.sseSessions.find(headers.get('x-session-id'))
  const before = process.cpuUsage()
  for (let n = 0; n < count; n++) await session.join(`channel ${n}`)
  for (let n = 0; n < count; n += 2) {
    await session.leave(`channel ${n}`)
  }
  await session.close()
  const { user, system } = process.cpuUsage(before)
  controller.abort()
  return (user + system) / count
}

await measure(2000)
for (const count of [1000, 10_000, 50_000]) console.log(`${count} channels: ${(await measure(count)).toFixed(1)} microseconds each`)
await app.close()
