import Fastify from 'fastify'
import t from 'tap'
import { memoryStore } from '../../lib/store/memory/memory-store.js'
import type { Store } from '../../lib/store/store.js'
import { Log } from '../../lib/log/log.js'
import { resolveOptions } from '../../lib/options.js'
import { createSessions } from '../../lib/sessions/sessions.js'
import { StreamWriter } from '../../lib/stream/stream-writer.js'
import { openSession, attachMemoryStream } from '../support/memory-stream.js'
import { MemorySink, readEvents } from '../support/memory-sink.js'
import { waitUntil } from '../support/wait.js'

const { log: logger } = Fastify({ logger: false })

const createLog = (): Log => new Log({ entries: 10, bytes: 1000, age: Infinity }, { onAppend: () => {} })

/** Starts a stream of a log with one entry. Its store may have given the session to another process, so it must not write. */
function startStreamThatMayNotWrite (): { owner: { canWrite: boolean }, sink: MemorySink, stream: StreamWriter } {
  const owner = { canWrite: false, onProgress: () => {}, onGap: () => {}, onStreamClose: () => {} }
  const log = createLog()
  log.push({ frame: 'data: "entry"\n\n' }, 1, 0)
  const sink = new MemorySink(false)
  const stream = new StreamWriter({ readerId: 'reader', ranges: [{ log, from: 0, to: Infinity }], cursor: 0, sink, owner, logger })
  stream.start(':preamble\n\n')
  return { owner, sink, stream }
}

t.test('a stream that may not write neither writes nor ends, and does both when it may write', async t => {
  const { owner, sink, stream } = startStreamThatMayNotWrite()
  stream.end({ finalFrame: ':last\n\n', reason: 'closed', drain: true })
  stream.flush()
  t.equal(sink.read(), ':preamble\n\n')
  t.equal(sink.closed, false)
  owner.canWrite = true
  stream.onAppend()
  await waitUntil(() => sink.closed, 'the end')
  t.match(sink.text, /^id: .*\ndata: "entry"\n\n:last\n\n$/)
})

t.test('a stream that ends without draining writes only the final frame', async t => {
  const { sink, stream } = startStreamThatMayNotWrite()
  stream.end({ finalFrame: 'event: reset\ndata: 0\n\n', reason: 'shutdown', drain: stream.canWrite })
  t.equal(sink.closed, true)
  t.strictSame(readEvents(sink).map(({ event }) => event), ['reset'])
})

t.test('a stream ends without an event if its session was streamed elsewhere and released before it began', async t => {
  const sessions = await createSessions(resolveOptions({
    store: (settings, callbacks) => {
      const store: Store = memoryStore(settings, callbacks)
      const attach = store.attach.bind(store)
      store.attach = (state, cursor, requestedAt) => {
        const newestPosition = attach(state, cursor, requestedAt)
        state.ranges.length = 0
        return newestPosition
      }
      return store
    }
  }, 0), logger)
  t.teardown(() => sessions.close())
  const memoryStream = await attachMemoryStream(sessions, await openSession(sessions))
  await waitUntil(() => memoryStream.sink.closed, 'the end')
  t.strictSame(memoryStream.read(), [])
})

t.test('two logs with the same position do not block the process, although a store must not assign it twice', async t => {
  const logs = ['one', 'two'].map(name => {
    const log = createLog()
    log.push({ frame: `data: "${name}"\n\n` }, 1, 0)
    log.push({ frame: `data: "${name} again"\n\n` }, name === 'one' ? 2 : 3, 0)
    return log
  })
  const sink = new MemorySink(false)
  const owner = { canWrite: true, onProgress: () => {}, onGap: () => {}, onStreamClose: () => {} }
  const ranges = logs.map(log => ({ log, from: 0, to: Infinity }))
  new StreamWriter({ readerId: 'reader', ranges, cursor: 0, sink, owner, logger }).start('')
  t.strictSame(readEvents(sink).map(({ data }) => data).slice(-2), ['one again', 'two again'])
})
