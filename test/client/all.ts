import { runFolder } from '../support/run-folder.js'

// dispatcher.test.ts replaces a timer that undici keeps for the rest of the process.
await runFolder(import.meta.url, name => name !== 'dispatcher.test.ts')
