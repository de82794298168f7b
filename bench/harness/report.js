export function median (values) {
  const sorted = values.filter(value => value !== undefined).sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Medians of what each subject's rounds measured, and of each round's ratios to `raw`. */
export class Result {
  #rounds

  /** `rounds`: of each subject's name, what it measured in each round. */
  constructor (rounds) {
    this.#rounds = rounds
  }

  get subjects () {
    return Object.keys(this.#rounds)
  }

  median (subject, measure) {
    return median(this.#rounds[subject]?.map(round => round[measure]) ?? [])
  }

  /** NaN where one of them did not run. Subjects ran in turn, so that those of one round had the same noise. */
  ratio (subject, measure, to = 'raw') {
    const base = this.#rounds[to]
    if (base === undefined) return NaN
    return median(this.#rounds[subject]?.map((round, i) => round[measure] / base[i][measure]) ?? [])
  }
}

/** Prints a workload's table and how its goals stand; answers with the same as an object. */
export function report ({ name, title, measures, goals = [], base = 'raw' }, rounds) {
  const result = new Result(rounds)
  const rows = result.subjects.map(subject => {
    const row = { subject }
    for (const [measure, { label, relative = false }] of Object.entries(measures)) {
      row[label] = round(result.median(subject, measure))
      if (relative) row[`/ ${base}'s ${measure}`] = round(result.ratio(subject, measure, base))
    }
    return row
  })
  console.log(`\n${name}: ${title}`)
  printTable(rows)
  const standings = goals.map(({ what, value, atMost = Infinity, atLeast = -Infinity }) => {
    const measured = round(value(result))
    const met = measured === undefined ? undefined : measured <= atMost && measured >= atLeast
    return { what, goal: atMost === Infinity ? `at least ${atLeast}` : `at most ${atMost}`, measured, met }
  })
  for (const { what, goal, measured, met } of standings) {
    if (met !== undefined) console.log(`  ${what}: ${measured}, goal ${goal}: ${met ? 'met' : 'NOT MET'}`)
  }
  return { name, title, rows, goals: standings, rounds }
}

/** Three significant digits. */
const round = value => Number.isFinite(value) ? Number(value.toPrecision(3)) : undefined

function printTable (rows) {
  const columns = Object.keys(rows[0])
  const text = value => value === undefined ? '–' : String(value)
  const lines = [columns, ...rows.map(row => columns.map(column => text(row[column])))]
  const widths = columns.map((_, i) => Math.max(...lines.map(line => line[i].length)))
  for (const line of lines) console.log(`  ${line.map((cell, i) => i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])).join('   ')}`)
}
