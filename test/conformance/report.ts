/** `must`: the protocol requires it. `should`: the protocol recommends it. `may`: it is optional, so it cannot fail. */
export type Level = 'must' | 'should' | 'may'

export interface Requirement {
  readonly level: Level
  readonly text: string
  /** `undefined`: it was not reached, because an earlier one failed. */
  passed?: boolean
  /** What was seen, if it helps to understand the result. */
  detail?: string
}

/** A table of requirements, each with its result. */
export class Report {
  readonly #requirements = new Map<string, Requirement>()

  /** Why the check has stopped early. */
  readonly problems: string[] = []

  constructor (requirements: ReadonlyArray<readonly [level: Level, text: string]>) {
    for (const [level, text] of requirements) this.#requirements.set(text, { level, text })
  }

  /** Records a result. A requirement that has failed once stays failed. */
  check (text: string, passed: boolean, detail = ''): void {
    const requirement = this.#requirements.get(text)
    if (requirement === undefined) throw new Error(`No requirement "${text}" is in the table`)
    if (requirement.passed === false) return
    requirement.passed = passed
    requirement.detail = detail
  }

  get requirements (): readonly Requirement[] {
    return [...this.#requirements.values()]
  }

  /** Whether all requirements passed that are not optional. */
  get passed (): boolean {
    return this.requirements.every(({ level, passed }) => level === 'may' || passed === true)
  }

  toString (): string {
    return [...this.requirements.map(({ level, text, passed, detail = '' }) => {
      const result = passed === undefined ? 'not reached' : passed ? 'pass' : level === 'may' ? 'not used' : 'FAIL'
      return `${result.padEnd(11)}  ${level.toUpperCase().padEnd(6)}  ${text}${detail === '' ? '' : ` (${detail})`}`
    }), ...this.problems].join('\n')
  }
}
