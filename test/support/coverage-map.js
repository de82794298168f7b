import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'

// Every test covers all of lib. Excluded are the React hook, because its tests run in Chromium, which records no coverage,
// and the Redis store if Redis is not installed.
const withoutRedis = process.env.CI !== 'true' && spawnSync('sh', ['-c', 'command -v redis-server']).status !== 0
const files = readdirSync('lib', { recursive: true })
  .map(file => `lib/${file}`)
  .filter(file => file.endsWith('.ts') && file !== 'lib/client/react.ts' && !(withoutRedis && /^lib\/(store\/)?redis/.test(file)))

export default () => files
