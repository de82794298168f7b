import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { needsChromium, openContext } from '../support/browser.js'
import { createTestFolder } from '../support/test-folder.js'

interface BenchmarkResult {
  readonly name: string
  /** By subject, the measured values of each round. */
  readonly rounds: Record<string, Array<Record<string, number>>>
}

const SAMPLE: BenchmarkResult[] = [
  ...['broadcast', 'broadcast-paced', 'echo', 'open'].map(name => ({
    name,
    rounds: {
      ours: [{ cpu: 1 }, { cpu: 3 }, { cpu: 2 }],
      raw: [{ cpu: 4 }, { cpu: 4 }, { cpu: 4 }],
      '@fastify/sse': [{ cpu: 5 }, { cpu: 5 }, { cpu: 5 }],
      'better-sse': [{ cpu: 6 }, { cpu: 6 }, { cpu: 6 }],
      ws: [{ cpu: 3 }, { cpu: 3 }, { cpu: 3 }],
      'socket.io': [{ cpu: 16 }, { cpu: 16 }, { cpu: 16 }]
    }
  })),
  {
    name: 'drops',
    rounds: {
      ours: [{ lost: 0, delivered: 240_000 }],
      'better-sse': [{ lost: 60_000, delivered: 180_000 }],
      '@fastify/sse': [{ lost: 72_000, delivered: 168_000 }],
      ws: [{ lost: 36_000, delivered: 204_000 }],
      'socket.io': [{ lost: 24_000, delivered: 216_000 }],
      'socket.io-recovery': [{ lost: 24, delivered: 239_976 }],
      'graphql-sse': [{ lost: 48_000, delivered: 192_000 }]
    }
  },
  {
    name: 'scale',
    rounds: {
      ours: [{ rss: 11_000, heartbeat: 4, broadcast: 5, resume: 99, expire: 10 }],
      'ours-10000': [{ rss: 10_000, heartbeat: 4, broadcast: 4, resume: 100, expire: 8 }]
    }
  }
]

/** Runs the script that draws the chart, and returns its exit code, what it printed, and the function that reads the chart. */
function drawChart (t: Test, results: readonly BenchmarkResult[]): { status: number | null, stderr: string, readChart: () => string } {
  const folder = createTestFolder(t, { 'results.json': JSON.stringify({ machine: { cpu: 'A <fast> CPU', node: 'v20.20.2' }, results }) })
  const chart = join(folder, 'chart.svg')
  const { status, stderr } = spawnSync(process.execPath, ['bench/chart.js', join(folder, 'results.json'), chart], {
    cwd: new URL('../..', import.meta.url),
    encoding: 'utf8',
    timeout: 30_000
  })
  return { status, stderr, readChart: () => readFileSync(chart, 'utf8') }
}

t.test('the chart of the benchmarks shows the medians of all panels', async t => {
  const { status, stderr, readChart } = drawChart(t, SAMPLE)
  t.equal(status, 0, stderr)
  const texts = [...readChart().matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map(([, text]) => text)
  const textAfter = (label: string, after: string): string | undefined => texts[texts.indexOf(label, texts.indexOf(after)) + 1]
  t.equal(textAfter('fastify-sse-sessions', 'Opening a session'), '0.50', 'the median of the ratios of the rounds')
  t.equal(textAfter('socket.io', 'A message and its echo'), '4.00')
  t.equal(textAfter('fastify-sse-sessions', 'Events lost when connections drop'), 'none')
  t.equal(textAfter('better-sse', 'Events lost when connections drop'), '25 %')
  t.equal(textAfter('socket.io, recovery', 'Events lost when connections drop'), 'under 1 %')
  t.equal(textAfter('resume', 'Cost of each of 100,000 sessions'), '0.99')
  t.ok(texts.includes('A &#60;fast&#62; CPU, Node 20.20.2'), 'names are escaped')
})

t.test('the chart leaves out workloads that did not run', async t => {
  const { readChart } = drawChart(t, SAMPLE.filter(({ name }) => name === 'echo'))
  t.match(readChart(), 'A message and its echo')
  t.notMatch(readChart(), /Opening a session|Events lost|100,000/)
  const { status, stderr } = drawChart(t, [])
  t.equal(status, 1)
  t.match(stderr, 'run "npm run bench" first')
})

t.test('a browser shows the chart, with all texts inside it, in both color schemes', needsChromium, async t => {
  const { readChart } = drawChart(t, SAMPLE)
  for (const colorScheme of ['light', 'dark'] as const) {
    const page = await (await openContext(t, { colorScheme, viewport: { width: 360, height: 800 } })).newPage()
    await page.setContent(`<body style="margin: 0">${readChart()}`)
    const { isInside, textColor, cardColor } = await page.evaluate(() => {
      const svg = document.querySelector('svg') as SVGSVGElement
      const card = svg.querySelector('.card') as SVGRectElement
      const { width, height } = card.getBBox()
      const texts = [...svg.querySelectorAll('text')]
      return {
        isInside: texts.every(text => {
          const box = text.getBBox()
          return box.x >= 0 && box.y >= 0 && box.x + box.width <= width && box.y + box.height <= height
        }),
        textColor: getComputedStyle(texts[0] as SVGTextElement).fill,
        cardColor: getComputedStyle(card).fill
      }
    })
    t.ok(isInside, colorScheme)
    const [light, dark] = colorScheme === 'light' ? [cardColor, textColor] : [textColor, cardColor]
    t.same([light, dark], colorScheme === 'light' ? ['rgb(255, 255, 255)', 'rgb(31, 35, 40)'] : ['rgb(240, 246, 252)', 'rgb(13, 17, 23)'])
  }
})
