import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'

// All of the library, whichever test loads it, but for the React hook: its effects need a page, and its tests give it
// one in Chromium, where no coverage is gathered; and but for the store over Redis where that is not installed.
const withoutRedis = process.env.CI !== 'true' && spawnSync('sh', ['-c', 'command -v redis-server']).status !== 0
const files = readdirSync('lib', { recursive: true })
  .map(file => `lib/${file}`)
  .filter(file => file.endsWith('.ts') && file !== 'lib/client/react.ts' && !(withoutRedis && /^lib\/(store\/)?redis/.test(file)))

export default () => files
