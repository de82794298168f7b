import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { runScript, trackProcess, type TrackedProcess } from '../support/child-process.js'
import { findFreePort } from '../support/free-port.js'
import { needsProgram } from '../support/needs-program.js'
import { startRedis } from '../support/redis-server.js'
import { block } from './docs.js'

const [, kitchenPath = '', waiterPath = '', count = ''] = /node (\S+) &\npython3 (\S+) .* (\d+)/.exec(block('docs/two-servers.md', 'run')) ?? []
const COUNT = Number(count)

t.test('a Python service and a Fastify app lose no order and no progress while both restart', needsProgram('redis-server', 'command -v redis-server && /usr/bin/python3 --version'), async t => {
  const redis = await startRedis(t)
  const port = await findFreePort()
  const folder = mkdtempSync(join(tmpdir(), 'two-servers-'))
  t.teardown(() => { rmSync(folder, { recursive: true }) })
  const kitchens: TrackedProcess[] = []
  const waiters: TrackedProcess[] = []
  const startKitchen = async (): Promise<void> => {
    const kitchen = runScript(t, kitchenPath, { PORT: String(port), REDIS_URL: `redis://127.0.0.1:${redis.port}` })
    kitchens.push(kitchen)
    await kitchen.waitForOutput(/http:/, 60_000)
  }
  const startWaiter = (): TrackedProcess => {
    const args = [waiterPath, `http://127.0.0.1:${port}/orders`, join(folder, 'state.json'), count]
    const waiter = trackProcess(t, spawn('/usr/bin/python3', args, { detached: true }), 'the waiter')
    waiters.push(waiter)
    return waiter
  }
  const linesOf = (processes: readonly TrackedProcess[], pattern: RegExp): string[] => processes.flatMap(({ output }) => output().match(pattern) ?? [])

  await startKitchen()
  const first = startWaiter()
  await first.waitForOutput(/progress 5 ready/, 60_000)
  await first.kill('SIGKILL')
  await startWaiter().waitForOutput(/progress 20 ready/, 60_000)
  await kitchens[0]?.kill('SIGTERM')
  await startKitchen()
  await (waiters[1] as TrackedProcess).waitForOutput(new RegExp(`progress ${COUNT} ready`), 60_000)

  const expected = Array.from({ length: COUNT }, (_, index) => `progress ${index + 1} ready`)
  const orders = linesOf(kitchens, /^order \d+$/gm)
  t.strictSame(orders, expected.map((_, index) => `order ${index + 1}`), 'each order is handled once and in order')
  t.strictSame([...new Set(linesOf(waiters, /^progress \d+ ready$/gm))], expected, 'no progress is lost')
  t.notMatch(waiters.map(({ output }) => output()).join(''), /lost|refused|Traceback/)
})
