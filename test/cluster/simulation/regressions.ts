import type { Plan } from './history.js'

/** Histories that violated a guarantee once, reduced to the steps that are necessary. The command runs them first. */
export const regressions: ReadonlyArray<{ readonly title: string, readonly plan: Plan }> = []
