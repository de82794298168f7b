// Draws the chart of the main results: npm run chart [-- results.json chart.svg]
import { readFileSync, writeFileSync } from 'node:fs'
import { Result } from './harness/report.js'

const WIDTH = 400
const PADDING = 16
const LABEL_WIDTH = 164
const VALUE_WIDTH = 66
const BAR_WIDTH = WIDTH - 2 * PADDING - LABEL_WIDTH - VALUE_WIDTH
const ROW_HEIGHT = 19
const BAR_HEIGHT = 11

const NAMES = { ours: 'fastify-sse-sessions', raw: 'node:http', 'socket.io-recovery': 'socket.io, recovery' }
const COMPARED = ['ours', '@fastify/sse', 'better-sse', 'ws', 'socket.io']

// The chart has its own background, because an image cannot use that of its page. Values are outlined in its color, so that
// the vertical line does not cross them.
const STYLE = `
  text { fill: #1f2328 } .note { fill: #59636e } .card { fill: #fff; stroke: #d1d9e0 } .value { stroke: #fff; stroke-width: 4px; paint-order: stroke }
  .bar { fill: #9ca3af } .ours { fill: #15803d } .line { stroke: #59636e }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .note { fill: #9198a1 } .card { fill: #0d1117; stroke: #3d444d } .value { stroke: #0d1117 }
    .bar { fill: #6b7280 } .ours { fill: #3fb950 } .line { stroke: #9198a1 }
  }`

/** Rows of the chart: one for each subject that has the measure, or its ratio to the subject `base`. */
function createRows (results, { workload, measure, base, subjects, format = formatRatio }) {
  const rounds = results.find(({ name }) => name === workload)?.rounds ?? {}
  const result = new Result(rounds)
  return (subjects ?? result.subjects)
    .map(subject => ({ subject, value: base === undefined ? result.median(subject, measure) : result.ratio(subject, measure, base) }))
    .filter(({ value }) => Number.isFinite(value))
    .map(({ subject, value }) => ({ label: NAMES[subject] ?? subject, isOwn: subject === 'ours', value, text: format(value, result, subject) }))
}

/** The panels of the chart: groups of rows on the same scale. `reference` is a value that a vertical line shows. */
function createPanels (results) {
  const createCpuGroup = (title, workload) => ({ title, rows: createRows(results, { workload, measure: 'cpu', base: 'raw', subjects: COMPARED }) })
  const createScaleRows = (label, measure) =>
    createRows(results, { workload: 'scale', measure, base: 'ours-10000', subjects: ['ours'] }).map(row => ({ ...row, label }))
  const panels = [
    {
      title: 'Server CPU',
      note: 'relative to a hand-written node:http server; less is better',
      reference: 1,
      groups: [
        createCpuGroup('50 events per second to 1,000 sessions', 'broadcast-paced'),
        createCpuGroup('As many events as possible to 1,000 sessions', 'broadcast'),
        createCpuGroup('A message and its echo', 'echo'),
        createCpuGroup('Opening a session', 'open')
      ]
    },
    {
      title: 'Events lost when connections drop',
      note: 'every 2 to 10 seconds, with the usual client of each server',
      groups: [{ rows: createRows(results, { workload: 'drops', measure: 'lost', format: formatLoss }) }]
    },
    {
      title: 'Cost of each of 100,000 sessions',
      note: 'relative to 10,000 sessions in one process',
      reference: 1,
      groups: [{
        rows: [
          ...createScaleRows('memory', 'rss'), ...createScaleRows('heartbeat', 'heartbeat'), ...createScaleRows('broadcast', 'broadcast'),
          ...createScaleRows('resume', 'resume'), ...createScaleRows('expiry', 'expire')
        ]
      }]
    }
  ]
  return panels
    .map(panel => ({ ...panel, groups: panel.groups.filter(({ rows }) => rows.length > 0) }))
    .filter(({ groups }) => groups.length > 0)
}

const formatRatio = value => value.toFixed(2)

function formatLoss (lost, result, subject) {
  const share = lost / (lost + result.median(subject, 'delivered')) * 100
  return lost === 0 ? 'none' : `${share < 1 ? 'under 1' : Math.round(share)} %`
}

const escapeXml = text => text.replace(/[&<>"]/g, character => `&#${character.charCodeAt(0)};`)

/** Returns the chart of the results as SVG. Throws if they contain nothing to show. */
function renderChart ({ results, machine }) {
  const panels = createPanels(results)
  if (panels.length === 0) throw new Error('The results contain none of the workloads of the chart: run "npm run bench" first')
  const parts = []
  const addText = (x, y, text, attributes = '') => { parts.push(`<text x="${x}" y="${y}"${attributes}>${escapeXml(text)}</text>`) }
  let y = PADDING
  for (const { title, note, reference, groups } of panels) {
    addText(PADDING, y += 16, title, ' font-size="15" font-weight="600"')
    addText(PADDING, y += 17, note, ' class="note"')
    y += 4
    const rows = groups.flatMap(group => group.rows)
    const scale = BAR_WIDTH / Math.max(reference ?? 0, ...rows.map(({ value }) => value), Number.MIN_VALUE)
    const barX = PADDING + LABEL_WIDTH
    for (const { title: groupTitle, rows: groupRows } of groups) {
      if (groupTitle !== undefined) addText(PADDING, y += 18, groupTitle, ' font-weight="600"')
      y += 5
      if (reference !== undefined) {
        const x = (barX + reference * scale).toFixed(1)
        parts.push(`<path class="line" stroke-dasharray="3 3" d="M${x} ${y}v${groupRows.length * ROW_HEIGHT}"/>`)
      }
      for (const { label, isOwn, value, text } of groupRows) {
        const width = Math.max(1, value * scale)
        addText(barX - 8, y + 13, label, ` text-anchor="end"${isOwn ? ' font-weight="600"' : ''}`)
        parts.push(`<rect class="${isOwn ? 'ours' : 'bar'}" x="${barX}" y="${y + 4}" width="${width.toFixed(1)}" height="${BAR_HEIGHT}" rx="2"/>`)
        addText((barX + width + 6).toFixed(1), y + 13, text, ' class="value"')
        y += ROW_HEIGHT
      }
    }
    y += 14
  }
  addText(PADDING, y += 8, `${machine.cpu}, Node ${machine.node.slice(1)}`, ' class="note" font-size="11"')
  const height = y + PADDING
  const description = panels.map(({ title, note, groups }) => `${title}, ${note}. ${groups.map(({ title: groupTitle, rows }) =>
    `${groupTitle === undefined ? '' : `${groupTitle}: `}${rows.map(({ label, text }) => `${label} ${text}`).join(', ')}`).join('. ')}.`).join(' ')
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-labelledby="title desc" font-family="system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif" font-size="12.5">
<title id="title">Benchmark results</title>
<desc id="desc">${escapeXml(description)}</desc>
<style>${STYLE}
</style>
<rect class="card" x="0.5" y="0.5" width="${WIDTH - 1}" height="${height - 1}" rx="8"/>
${parts.join('\n')}
</svg>
`
}

const [resultsFile = new URL('results.json', import.meta.url), chartFile = new URL('chart.svg', import.meta.url)] = process.argv.slice(2)
writeFileSync(chartFile, renderChart(JSON.parse(readFileSync(resultsFile, 'utf8'))))
