import { runFolder } from '../support/run-folder.js'

// These tests wait for timeouts most of the time, so three processes run a third of the files each.
await runFolder(import.meta.url, (_name, index) => index % 3 === 2)
