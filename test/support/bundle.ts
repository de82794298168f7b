import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { build, type Plugin } from 'rolldown'
import type { Test } from 'tap'
import { createTestFolder } from './test-folder.js'

const resolve = { extensionAlias: { '.js': ['.ts', '.js'] } }

// Compile components. The compilers are loaded only when they are needed, because that takes half a second.
const components: Plugin[] = [{
  name: 'svelte',
  transform: {
    filter: { id: /\.svelte$/ },
    handler: async (code, filename) => {
      const { compile } = await import('svelte/compiler')
      return { code: compile(code, { filename, css: 'injected' }).js.code, moduleType: 'js' }
    }
  }
}, {
  name: 'vue',
  transform: {
    filter: { id: /\.vue$/ },
    handler: async (code, filename) => {
      const { compileScript, parse } = await import('vue/compiler-sfc')
      const { descriptor } = parse(code, { filename })
      return { code: compileScript(descriptor, { id: filename, inlineTemplate: true }).content, moduleType: 'ts' }
    }
  }
}]

/** Bundles a module, given by its absolute path or URL, and its imports for a browser. */
export async function bundleForBrowser (module: string | URL, output: { minify?: boolean } = {}): Promise<string> {
  const { output: [{ code }] } = await build({
    input: fileURLToPath(new URL(module, import.meta.url)),
    platform: 'browser',
    // The development build of React mounts components twice under StrictMode.
    transform: { define: { 'process.env.NODE_ENV': '"development"', __VUE_OPTIONS_API__: 'true', __VUE_PROD_DEVTOOLS__: 'false', __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: 'false' } },
    plugins: components,
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
