import t from 'tap'
import { estimateMemory } from '../../lib/routes/estimate-memory.js'

t.test('estimates the memory of parsed JSON, which can be many times the size of the text', async t => {
  const count = 10_000
  for (const [element, min, max] of [['{}', 40, 100], ['[]', 30, 100], ['0', 8, 40], [`"${'x'.repeat(100)}"`, 100, 150], ['{"name":1}', 40, 150]] as const) {
    const perElement = estimateMemory(JSON.parse(`[${`${element},`.repeat(count)}${element}]`)) / count
    t.ok(perElement > min && perElement < max, `${element.slice(0, 10)}: ${perElement}`)
  }
  for (const [value, bytes] of [[undefined, 16], [null, 16], [Buffer.alloc(1000), 1016]] as const) t.equal(estimateMemory(value), bytes)
})

t.test('ends for data that contains itself', async t => {
  const data: unknown[] = []
  data.push(data)
  t.ok(estimateMemory(data) >= 2 ** 26)
})
