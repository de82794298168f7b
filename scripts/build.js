// Compiles lib/ to dist/: ES modules and declarations, the client as one file, and CommonJS modules.
import { execFileSync } from 'node:child_process'
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { build } from 'rolldown'

process.chdir(fileURLToPath(new URL('..', import.meta.url)))
rmSync('dist', { recursive: true, force: true })
execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'], { stdio: 'inherit' })

// Bundlers do not include files that are read at run time, so the texts of the scripts of Redis become part of the code.
const scripts = readdirSync('lib/store/redis', { recursive: true, encoding: 'utf8' })
  .filter(name => name.endsWith('.lua'))
  .map(name => [name.replaceAll('\\', '/').slice(0, -'.lua'.length), readFileSync(`lib/store/redis/${name}`, 'utf8')])
writeFileSync('dist/store/redis/lua.js', `const scripts = ${JSON.stringify(Object.fromEntries(scripts), null, 2)}\n\nexport const readLua = path => scripts[path]\n`)
rmSync('dist/store/redis/lua.js.map')

// A page that loads bundle.js loads this file from the same folder, too, so it must not import others.
await build({
  input: 'dist/client/shared-fetch.js',
  platform: 'browser',
  logLevel: 'warn',
  output: { file: 'dist/client/shared-fetch.js', format: 'esm', minify: true, comments: false }
})
rmSync('dist/client/shared-fetch.js.map')

await build({
  input: 'dist/client/index.js',
  platform: 'browser',
  logLevel: 'warn',
  // Only pages that share their session load this file, from the same folder.
  external: /shared-fetch\.js$/,
  output: { file: 'dist/client/bundle.js', format: 'esm', minify: true, comments: false }
})

// For tools that cannot require ES modules, such as Jest.
const entries = ['index', 'redis', 'testing', 'client/index', 'client/node', 'client/react', 'client/resumable-fetch', 'client/vue', 'mcp/index']
await build({
  input: Object.fromEntries(entries.map(entry => [entry, `dist/${entry}.js`])),
  platform: 'node',
  logLevel: 'warn',
  external: /^[^./]/,
  // Rolldown keeps the directive "use client" of the React hooks, but warns that it may not.
  onLog: (level, log, handler) => { if (log.code !== 'MODULE_LEVEL_DIRECTIVE') handler(level, log) },
  output: {
    dir: 'dist/cjs',
    format: 'cjs',
    exports: 'named',
    // As in ES modules, `require()` of the plugin returns the function.
    footer: ({ name }) => name === 'index' ? 'module.exports = exports["module.exports"];' : ''
  }
})
writeFileSync('dist/cjs/package.json', '{ "type": "commonjs" }\n')
for (const name of readdirSync('dist', { recursive: true, encoding: 'utf8' })) {
  if (name.endsWith('.d.ts')) cpSync(`dist/${name}`, `dist/cjs/${name}`)
}
