import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'

// Every test covers all of lib. Excluded are the modules for frameworks, because their tests run in Chromium, which records no
// coverage, and the Redis store if Redis is not installed.
const withoutRedis = process.env.CI !== 'true' && spawnSync('sh', ['-c', 'command -v redis-server']).status !== 0
const inChromium = ['react', 'session-manager', 'svelte', 'vue'].map(name => `lib/client/${name}.ts`)
const files = readdirSync('lib', { recursive: true })
  .map(file => `lib/${file}`)
  .filter(file => file.endsWith('.ts') && !inChromium.includes(file) && !(withoutRedis && /^lib\/(store\/)?redis/.test(file)))

export default () => files
