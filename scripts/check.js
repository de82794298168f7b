// Runs the checks of `npm test` that are not tests, in two groups at the same time, because each check uses only one core.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const cwd = fileURLToPath(new URL('..', import.meta.url))
// attw packs the package. Without this, `prepack` would build it again.
const env = { ...process.env, npm_config_ignore_scripts: 'true' }

/** @param {string[]} scripts */
async function run (...scripts) {
  for (const script of scripts) {
    const [code] = await once(spawn(`npm run ${script}`, { cwd, env, shell: true, stdio: 'inherit' }), 'exit')
    if (code !== 0) {
      process.exitCode = 1
      return
    }
  }
}

await Promise.all([run('lint'), run('typecheck', 'build', 'lint:package')])
