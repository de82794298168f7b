import { readdirSync } from 'node:fs'

// The server's side, whichever test loads it. The client runs in Chromium as well, where no coverage is gathered.
const files = readdirSync('lib', { recursive: true })
  .map(file => `lib/${file}`)
  .filter(file => file.endsWith('.ts') && !file.startsWith('lib/client/'))

export default () => files
