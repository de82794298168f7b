// Another build of this package: see OTHER in METHOD.md.
import { createStart, OTHER } from './support/builds.js'

export const start = createStart(OTHER)
