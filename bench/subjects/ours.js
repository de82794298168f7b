// This package, as built in dist/.
import { createStart, OURS } from './support/builds.js'

export const start = createStart(OURS)
