import { fileURLToPath } from 'node:url'
import { build } from 'rolldown'

/** Bundles a module of this folder, and what it imports, for a browser. */
export async function bundle (module: string): Promise<string> {
  const { output: [{ code }] } = await build({
    input: fileURLToPath(new URL(module, import.meta.url)),
    platform: 'browser',
    // In development React mounts twice under StrictMode.
    transform: { define: { 'process.env.NODE_ENV': '"development"' } },
    resolve: { extensionAlias: { '.js': ['.ts', '.js'] } },
    write: false
  })
  return code
}
