import { register } from 'node:module'

// Loads TypeScript as Node itself does from version 22.18 on: types are replaced by spaces. So all positions stay the same,
// and coverage needs no source maps.
register('./strip-types-hooks.js', import.meta.url)

// tap reads the source maps of all modules that are loaded. Only its own and those of other packages have one.
process.setSourceMapsEnabled(false)

// The coverage is that of lib/. The built files of programs that tests start would count their functions a second time.
process.env._TAPJS_PROCESSINFO_EXCLUDE_ = String(/[\\/](node_modules|dist)[\\/]/)

// The undici of Node 20 and 22 (6) can throw in a timer, where nothing catches it, if the parser of a connection was garbage-collected
// before its timeout. The later undici of the development dependencies checks that. `fetch` uses its connections then.
if (/^v2[02]\./.test(process.version)) {
  const { Agent, setGlobalDispatcher } = await import('undici')
  setGlobalDispatcher(new Agent())
}
