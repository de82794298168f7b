import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'

// The other tests cover all of lib. Excluded are the React hook, because its tests run in Chromium, which records no coverage,
// and the Redis store if Redis is not installed.
const withoutRedis = process.env.CI !== 'true' && spawnSync('sh', ['-c', 'command -v redis-server']).status !== 0
const files = readdirSync('lib', { recursive: true })
  .map(file => `lib/${file}`)
  .filter(file => file.endsWith('.ts') && file !== 'lib/client/react.ts' && !(withoutRedis && /^lib\/(store\/)?redis/.test(file)))

// Without coverage a test needs less time. These run built files or other processes, and the other tests cover lib.
/** @param {string} test */
export default test => /\btest[\\/](examples|cluster)[\\/]/.test(test) ? null : files
