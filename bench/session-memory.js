// What an idle session keeps in memory, object by object: node --expose-gc bench/session-memory.js [count] (after npm run build).
// Compares two heap snapshots, with `count` sessions between them. With the argument `raw`, the server keeps the response of each
// request open and does nothing else. With `detached`, it also detaches the response from the socket after the first write, with
// `response.detachSocket`, which is not documented.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import { getHeapSnapshot } from 'node:v8'
import Fastify from 'fastify'
import sseSessions from '../dist/index.js'

/** Kinds of objects with fewer bytes per session are joined in one row. */
const MIN_BYTES = 16

async function openStreams (port, count) {
  for (let n = 0; n < count; n++) {
    const socket = connect(port, '127.0.0.1')
    socket.write('GET /downward HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n')
    await once(socket, 'data')
  }
  process.send('opened')
}

async function startServer (variant) {
  if (variant !== undefined) {
    const server = createServer((_request, response) => {
      const { socket } = response
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write('data: welcome\n\n')
      if (variant === 'detached') response.detachSocket(socket)
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return server
  }
  const app = Fastify()
  await app.register(sseSessions)
  await app.listen({ port: 0, host: '127.0.0.1' })
  return app.server
}

/** Returns the number and the bytes of all objects in the heap, by their kind. */
async function readHeap () {
  globalThis.gc()
  const chunks = []
  for await (const chunk of getHeapSnapshot()) chunks.push(chunk)
  const { snapshot: { meta }, nodes, strings } = JSON.parse(Buffer.concat(chunks))
  const fields = meta.node_fields
  const [type, name, size] = ['type', 'name', 'self_size'].map(field => fields.indexOf(field))
  const types = meta.node_types[type]
  const kinds = new Map()
  for (let i = 0; i < nodes.length; i += fields.length) {
    const kindOfNode = types[nodes[i + type]]
    const isNamed = ['object', 'closure', 'native', 'object shape', 'code'].includes(kindOfNode)
    const kind = isNamed ? `${kindOfNode} ${strings[nodes[i + name]]}` : kindOfNode
    const { count, bytes } = kinds.get(kind) ?? { count: 0, bytes: 0 }
    kinds.set(kind, { count: count + 1, bytes: bytes + nodes[i + size] })
  }
  return kinds
}

async function measure (count, variant) {
  const { port } = (await startServer(variant)).address()
  const open = async count => {
    const clients = fork(new URL(import.meta.url), ['clients', port, count])
    await once(clients, 'message')
    return clients
  }
  // The first streams load code.
  const clients = [await open(100)]
  const before = await readHeap()
  clients.push(await open(count))
  const after = await readHeap()
  const rows = []
  let [restCount, restBytes, total] = [0, 0, 0]
  for (const [kind, { count: countAfter, bytes: bytesAfter }] of after) {
    const earlier = before.get(kind) ?? { count: 0, bytes: 0 }
    const bytes = (bytesAfter - earlier.bytes) / count
    const objects = (countAfter - earlier.count) / count
    total += bytes
    if (bytes >= MIN_BYTES) rows.push({ kind, 'objects per session': Number(objects.toFixed(1)), 'bytes per session': Math.round(bytes) })
    else [restCount, restBytes] = [restCount + objects, restBytes + bytes]
  }
  rows.sort((a, b) => b['bytes per session'] - a['bytes per session'])
  rows.push({ kind: 'all other kinds', 'objects per session': Number(restCount.toFixed(1)), 'bytes per session': Math.round(restBytes) })
  rows.push({ kind: 'total', 'objects per session': '', 'bytes per session': Math.round(total) })
  console.table(rows)
  for (const child of clients) child.kill()
  process.exit()
}

const args = process.argv.slice(2)
if (args[0] === 'clients') await openStreams(Number(args[1]), Number(args[2]))
else await measure(Number(args.find(arg => /^\d+$/.test(arg)) ?? 1000), args.find(arg => arg === 'raw' || arg === 'detached'))
