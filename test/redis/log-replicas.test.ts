import t from 'tap'
import type { Link } from '../../lib/store/redis/client.js'
import type { Line } from '../../lib/store/redis/line.js'
import { Mirrors } from '../../lib/store/redis/mirrors.js'
import type { StoreSettings } from '../../lib/store/store.js'
import { flushScheduler, type Flushable } from '../../lib/stream/flush-scheduler.js'
import { nextEventLoopTurn } from '../support/wait.js'

// This test calls the class directly, because a real Redis cannot be made to publish exactly between a comparison and its flush.
t.test('flushes entries that a comparison has added before later publications trim them', async t => {
  const settings = { channelLog: { entries: 3, bytes: 1e6, age: Infinity } } as StoreSettings
  const missing = [2, 3, 4].map(position => [`${position}-0`, ['f', `data: ${position}\n\n`]])
  const line = { node: 'n', seen: 0, offset: 0, run: async () => [[['4', '0', 'count', missing]], '4', '0'] } as unknown as Line
  const written: number[] = []
  const writer: Flushable = {
    flush: () => {
      for (let next = log.nextPosition(0); next !== Infinity; next = log.nextPosition(next)) if (!written.includes(next)) written.push(next)
    }
  }
  const replicas = new Mirrors(settings, {} as Link, line, 'p', { broadcast: () => { flushScheduler.schedule(writer) }, found: () => {}, doubt: () => {}, wentBack: () => {} })
  const { broadcasts } = replicas
  const { log } = broadcasts
  const take = (position: number): void => { replicas.take(broadcasts, `${position - 1} ${position}\ndata: ${position}\n\n`, 0) }
  broadcasts.open()
  take(1)
  await nextEventLoopTurn()
  t.strictSame(written, [1])
  await replicas.compare()
  for (const position of [5, 6, 7]) take(position)
  await nextEventLoopTurn()
  t.strictSame(written, [1, 2, 3, 4, 5, 6, 7])
})
