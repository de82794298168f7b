import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { build } from 'rolldown'
import type { Test } from 'tap'
import { createTestFolder } from './test-folder.js'

const resolve = { extensionAlias: { '.js': ['.ts', '.js'] } }

/** Bundles a module, given by its absolute path or URL, and its imports for a browser. */
export async function bundleForBrowser (module: string | URL, output: { minify?: boolean } = {}): Promise<string> {
  const { output: [{ code }] } = await build({
    input: fileURLToPath(new URL(module, import.meta.url)),
    platform: 'browser',
    // The development build of React mounts components twice under StrictMode.
    transform: { define: { 'process.env.NODE_ENV': '"development"' } },
    resolve,
    write: false,
    output
  })
  return code
}

/** Bundles a module, given by its absolute path or URL, and its relative imports into one file for Node, because loading many modules takes a second per process. */
export async function bundleForNode (t: Test, module: string | URL): Promise<string> {
  const file = join(createTestFolder(t), 'program.js')
  await build({
    input: fileURLToPath(new URL(module, import.meta.url)),
    platform: 'node',
    external: /^[^./]/,
    resolve,
    plugins: [{
      name: 'urls',
      // Modules read files next to them through `import.meta.url`.
      transform: (code, id) => code.replaceAll('import.meta.url', JSON.stringify(pathToFileURL(id).href))
    }],
    output: { file }
  })
  return file
}
