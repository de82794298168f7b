// CPU time, bytes and memory of compressed streams: node --expose-gc bench/compression.js [streams] (after npm run build).
// The streams of all variants are in one process, and the variants are measured in turn, so that noise affects all of them alike.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { constants, createGzip } from 'node:zlib'
import Fastify from 'fastify'
import sseSessions from '../dist/index.js'

const ROUNDS = 7
const EVENTS_PER_ROUND = 200

const VARIANTS = {
  // Its memory contains everything that the process allocates once.
  'warm-up': {},
  uncompressed: {},
  shared: { compress: true },
  separate: {
    routes: {
      downward: {
        onSend: async (_request, reply, payload) => {
          reply.header('content-encoding', 'gzip')
          return payload.pipe(createGzip({ flush: constants.Z_SYNC_FLUSH }))
        }
      }
    }
  }
}

const WORDS = 'the of and that is to in it for on with as was at by this have from or one had not but what all were when we there can an your which their said if do will each about how up out them then she many some so these would other into has more her two like him see time could no make than first been its who now people my made over did down only way find use may water long little very after words called just where most know'.split(' ')

let seed = 1
function random (limit) {
  seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31
  return Math.floor(seed / 2 ** 31 * limit)
}

/** The data of a chat message. */
const createData = n => ({
  id: 1000 + n,
  user: ['anna', 'bob', 'charlie', 'eve'][random(4)],
  text: Array.from({ length: 8 }, () => WORDS[random(WORDS.length)]).join(' '),
  time: new Date(1.7e12 + n * 1371 + random(1000)).toISOString()
})

/** Opens streams. Whenever all streams of a variant have received something, reports the number of bytes. */
function runClients (port) {
  const received = new Map()
  let bytes = 0
  process.on('message', async ({ variant, count }) => {
    const sockets = new Set()
    received.set(variant, sockets)
    for (let n = 0; n < count; n++) {
      const socket = connect(port, '127.0.0.1')
      socket.on('data', ({ length }) => {
        bytes += length
        if (sockets.add(socket).size < count) return
        sockets.clear()
        process.send(bytes)
        bytes = 0
      })
      socket.write(`GET /${variant}/downward HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n`)
      // At most 100 connections at a time, because the backlog of the server is limited.
      if (n % 100 === 99) await once(socket, 'data')
    }
  })
}

/** In kB. A compressor is part of the resident set size (rss) only. */
function measureMemory () {
  globalThis.gc()
  const { heapUsed, external, rss } = process.memoryUsage()
  return { heap: (heapUsed + external) / 1000, rss: rss / 1000 }
}

const median = values => values.toSorted((a, b) => a - b)[values.length >> 1]

async function measure (count) {
  const app = Fastify()
  for (const [variant, options] of Object.entries(VARIANTS)) {
    await app.register(sseSessions, { prefix: `/${variant}`, decorator: variant, heartbeatInterval: false, ...options })
  }
  await app.listen({ port: 0, host: '127.0.0.1' })
  const clients = fork(new URL(import.meta.url), [count, app.server.address().port])
  let n = 0
  /** Sends events in one tick. Resolves with the number of bytes that all streams have received. */
  async function send (variant, batchSize) {
    const received = once(clients, 'message')
    for (let i = 0; i < batchSize; i++) app[variant].broadcast('chat', createData(n++))
    return (await received)[0]
  }
  const results = {}
  for (const variant of Object.keys(VARIANTS)) {
    const before = measureMemory()
    clients.send({ variant, count })
    await once(clients, 'message')
    for (let i = 0; i < 20; i++) await send(variant, 1)
    const after = measureMemory()
    results[variant] = { heap: (after.heap - before.heap) / count, rss: (after.rss - before.rss) / count, bytes: {}, cpu: {} }
  }
  delete results['warm-up']
  for (let round = 0; round < ROUNDS; round++) {
    for (const batchSize of [1, 10]) {
      for (const [variant, { cpu }] of Object.entries(results)) {
        let bytes = 0
        const start = process.cpuUsage()
        for (let sent = 0; sent < EVENTS_PER_ROUND; sent += batchSize) bytes += await send(variant, batchSize)
        const { user, system } = process.cpuUsage(start);
        (cpu[batchSize] ??= []).push((user + system) / EVENTS_PER_ROUND / count)
        results[variant].bytes[batchSize] = bytes / EVENTS_PER_ROUND / count
      }
    }
  }
  const { uncompressed } = results
  console.table(Object.fromEntries(Object.entries(results).map(([variant, { heap, rss, bytes, cpu }]) => [variant, {
    'kB of heap': Math.round(heap),
    'kB of rss': Math.round(rss),
    ...Object.fromEntries(Object.entries(cpu).flatMap(([batchSize, values]) => [
      [`bytes, ${batchSize} per tick`, Math.round(bytes[batchSize])],
      [`µs, ${batchSize} per tick`, Number(median(values).toFixed(2))],
      [`ratio, ${batchSize} per tick`, Number(median(values.map((value, round) => value / uncompressed.cpu[batchSize][round])).toFixed(2))]
    ]))
  }])))
  clients.kill()
  process.exit()
}

const [count = 1000, port] = process.argv.slice(2).map(Number)
if (port === undefined) await measure(count)
else runClients(port)
