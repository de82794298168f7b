// The longest pauses of the server's event loop with 10,000 streams, in heartbeats and in broadcasts:
// node bench/event-loop.js [streams] (after npm run build). Needs an open-file limit (ulimit -n) above the number of streams.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as delay } from 'node:timers/promises'
import Fastify from 'fastify'
import sseSessions from '../dist/index.js'

const HEARTBEAT_INTERVAL = 2000

/** Opens the streams, and reports the number of heartbeats and events that all of them have received. */
async function runClients (port, count) {
  let received = 0
  for (let n = 0; n < count; n++) {
    const socket = connect(port, '127.0.0.1')
    socket.on('data', data => { received += data.toString().split(/: heartbeat\n|data: "news"/).length - 1 })
    socket.write('GET /downward HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n')
    // At most 100 connections at a time, because the backlog of the server is limited.
    if (n % 100 === 99) await once(socket, 'data')
  }
  process.send(0)
  process.on('message', () => { process.send(received) })
}

async function measure (count) {
  const app = Fastify()
  await app.register(sseSessions, { heartbeatInterval: HEARTBEAT_INTERVAL })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const clients = fork(new URL(import.meta.url), [count, app.server.address().port])
  await once(clients, 'message')
  const countReceived = async () => {
    clients.send('count')
    return (await once(clients, 'message'))[0]
  }

  async function report (name, work) {
    const before = await countReceived()
    const histogram = monitorEventLoopDelay({ resolution: 1 })
    histogram.enable()
    await work()
    histogram.disable()
    console.log(`${name}: longest pause ${(histogram.max / 1e6).toFixed(1)} ms, p99 ${(histogram.percentile(99) / 1e6).toFixed(1)} ms; the clients received ${await countReceived() - before}`)
  }
  await report('nothing to send, and heartbeats', () => delay(HEARTBEAT_INTERVAL * 3))
  await report('ten broadcasts', async () => {
    for (let n = 0; n < 10; n++) {
      await app.sseSessions.broadcast('message', 'news')
      await delay(500)
    }
  })
  clients.kill()
  await app.close()
}

const [count = 10_000, port] = process.argv.slice(2).map(Number)
if (port === undefined) await measure(count)
else await runClients(port, count)
