/** The medians of what the rounds of a workload measured. */
export class Result {
  #rounds

  /** `rounds`: by subject, what each round measured. */
  constructor (rounds) {
    this.#rounds = rounds
  }

  get subjects () {
    return Object.keys(this.#rounds)
  }

  median (subject, measure) {
    return median(this.#rounds[subject]?.map(round => round[measure]) ?? [])
  }

  /** The median of each round's own ratio. The subjects of a round ran one after the other, under the same noise. */
  ratio (subject, measure, base) {
    const baseRounds = this.#rounds[base]
    if (baseRounds === undefined) return NaN
    return median(this.#rounds[subject]?.map((round, i) => round[measure] / baseRounds[i][measure]) ?? [])
  }
}

function median (values) {
  const sorted = values.filter(value => value !== undefined).sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Returns a workload's table, and whether its goals are met. Ratios are relative to the subject `base`. */
export function summarize ({ name, title, measures, goals = [], base = 'raw' }, rounds) {
  const result = new Result(rounds)
  const rows = result.subjects.map(subject => {
    const row = { subject }
    for (const [measure, { label, isRelative = false }] of Object.entries(measures)) {
      row[label] = roundNumber(result.median(subject, measure))
      if (isRelative) row[`${measure} / ${base}`] = roundNumber(result.ratio(subject, measure, base))
    }
    return row
  })
  const evaluated = goals.map(goal => evaluateGoal(result, measures, goal)).filter(({ measured }) => measured !== undefined)
  return { name, title, rows, goals: evaluated, rounds }
}

/**
 * A goal limits a measure of `ours` with `atMost` or `atLeast`: the measure itself, its ratio to another subject
 * (`relativeTo`; of several subjects, the one with the lowest value counts), or its difference from one (`moreThan`).
 */
function evaluateGoal (result, measures, { measure, relativeTo, moreThan, atMost = Infinity, atLeast = -Infinity }) {
  let value = result.median('ours', measure)
  let { label } = measures[measure]
  if (Array.isArray(relativeTo)) {
    value = Math.max(...relativeTo.map(subject => result.ratio('ours', measure, subject)).filter(Number.isFinite))
    label += `, relative to the lowest of ${relativeTo.join(', ')}`
  } else if (relativeTo !== undefined) {
    value = result.ratio('ours', measure, relativeTo)
    label += `, relative to ${relativeTo}`
  } else if (moreThan !== undefined) {
    value -= result.median(moreThan, measure)
    label += `, more than ${moreThan}`
  }
  const measured = roundNumber(value)
  return {
    goal: `${label}: ${atMost === Infinity ? `at least ${atLeast}` : `at most ${atMost}`}`,
    measured,
    isMet: measured <= atMost && measured >= atLeast
  }
}

export function printSummary ({ name, title, rows, goals }) {
  console.log(`\n${name}: ${title}`)
  printTable(rows)
  for (const { goal, measured, isMet } of goals) console.log(`  Goal: ${goal}; measured ${measured}: ${isMet ? 'met' : 'NOT MET'}`)
}

/** Rounds to three significant digits, except integers, which are counts. Returns undefined for what was not measured. */
function roundNumber (value) {
  if (!Number.isFinite(value)) return undefined
  return Number.isInteger(value) ? value : Number(value.toPrecision(3))
}

function printTable (rows) {
  const columns = Object.keys(rows[0])
  const toCell = value => value === undefined ? '–' : String(value)
  const lines = [columns, ...rows.map(row => columns.map(column => toCell(row[column])))]
  const widths = columns.map((_, i) => Math.max(...lines.map(line => line[i].length)))
  for (const line of lines) console.log(`  ${line.map((cell, i) => i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])).join('   ')}`)
}
