import Fastify from 'fastify'
import t from 'tap'
import { memoryStore, type Store } from '../../lib/index.js'
import { resolveOptions } from '../../lib/options.js'
import { createSessions } from '../../lib/sessions/sessions.js'
import { Log } from '../../lib/log/log.js'
import { StreamWriter } from '../../lib/stream/stream-writer.js'
import { openSession, stream } from '../support/memory-client.js'
import { MemorySink, received } from '../support/memory-sink.js'
import { until } from '../support/wait.js'

const { log: logger } = Fastify({ logger: false })

/** A stream of a log with one entry, whose store may have given its session to another process. */
function streamWithoutLeave (): { owner: { canWrite: boolean }, sink: MemorySink, stream: StreamWriter } {
  const owner = { canWrite: false, onProgress: () => {}, onGap: () => {}, onStreamClose: () => {} }
  const log = new Log({ entries: 10, bytes: 1000, age: Infinity }, { onAppend: () => {} })
  log.push({ frame: 'data: "entry"\n\n' }, 1, 0)
  const sink = new MemorySink(false)
  const stream = new StreamWriter({ sessionId: 'reader', ranges: [{ log, from: 0, to: Infinity }], cursor: 0, sink, owner, logger })
  stream.start(':opening\n\n')
  return { owner, sink, stream }
}

t.test('a stream without leave to write neither writes nor ends, and does both when it has it', async t => {
  const { owner, sink, stream } = streamWithoutLeave()
  stream.end({ finalFrame: ':last\n\n', reason: 'closed', drain: true })
  stream.flush()
  t.equal(sink.read(), ':opening\n\n')
  t.equal(sink.closed, false)
  owner.canWrite = true
  stream.onAppend()
  await until(() => sink.closed, 'the end')
  t.match(sink.text, /^id: .*\ndata: "entry"\n\n:last\n\n$/)
})

t.test('one whose client is to come back ends at once: what it may not write the client gets then', async t => {
  const { sink, stream } = streamWithoutLeave()
  stream.end({ finalFrame: 'event: reset\ndata: 0\n\n', reason: 'shutdown', drain: stream.canWrite })
  t.equal(sink.closed, true)
  t.strictSame(received(sink).map(({ event }) => event), ['reset'])
})

t.test('a stream whose session was taken away, and given back, before it began ends without a word', async t => {
  const sessions = await createSessions(resolveOptions({
    store: (settings, user) => {
      const store: Store = memoryStore(settings, user)
      const attach = store.attach.bind(store)
      store.attach = (state, cursor) => {
        const head = attach(state, cursor)
        state.ranges.length = 0
        return head
      }
      return store
    }
  }, 0), logger)
  t.teardown(() => sessions.close())
  const down = await stream(sessions, await openSession(sessions))
  await until(() => down.sink.closed, 'the end')
  t.strictSame(down.read(), [])
})
