import { runFolder } from '../support/run-folder.js'

await runFolder(import.meta.url)
