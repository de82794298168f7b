import t from 'tap'
import { openEncodedStream } from '../support/encoded-stream.js'
import { serve } from '../support/server.js'
import { testEachStoreFactory } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

testEachStoreFactory(t, 'the events of selected channels, and broadcasts, are compressed in each process', async (t, connect, servers) => {
  const options = { compress: { broadcasts: true, channels: /^public/ } }
  const { sessions, url } = await serve(t, { ...options, store: await connect() })
  const sender = servers.length === 0 ? sessions : (await serve(t, { ...options, store: await connect() })).sessions
  sessions.addHook('onOpen', async session => {
    await session.join('public')
    await session.join('private')
  })
  const stream = await openEncodedStream(t, url)
  const session = await sender.find(stream.sessionId)
  const send = {
    broadcast: (data: string) => sender.broadcast('message', data),
    public: (data: string) => sender.channel('public').send(data),
    private: (data: string) => sender.channel('private').send(data),
    session: async (data: string) => await session?.send(data)
  }
  for (const [name, run] of Object.entries(send)) {
    const data = `these words are part of three events: ${name}`
    for (let n = 0; n < 3; n++) await run(data)
    await waitUntil(() => stream.text().split(data).length === 4, `the events of ${name}`)
    t.equal(stream.raw().split(data).length < 4, name === 'broadcast' || name === 'public', name)
  }
})
