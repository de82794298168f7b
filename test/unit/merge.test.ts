import t from 'tap'
import { Log } from '../../lib/log/log.js'
import { StreamWriter } from '../../lib/stream/stream-writer.js'
import { MemorySink, received } from '../support/memory-sink.js'
import { serve } from '../support/server.js'

t.test('two logs with the same position, which no store may give twice, do not stop the process', async t => {
  const { app } = await serve(t)
  const logs = ['one', 'two'].map(name => {
    const log = new Log({ entries: 10, bytes: 1000, age: Infinity }, { onAppend: () => {} })
    log.push({ frame: `data: "${name}"\n\n` }, 1, 0)
    log.push({ frame: `data: "${name} again"\n\n` }, name === 'one' ? 2 : 3, 0)
    return log
  })
  const sink = new MemorySink(false)
  const owner = { canWrite: true, onProgress: () => {}, onGap: () => {}, onStreamClose: () => {} }
  const ranges = logs.map(log => ({ log, from: 0, to: Infinity }))
  new StreamWriter({ sessionId: 'reader', ranges, cursor: 0, sink, owner, logger: app.log }).start('')
  t.strictSame(received(sink).map(({ data }) => data).slice(-2), ['one again', 'two again'])
})
