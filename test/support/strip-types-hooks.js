import { readFile } from 'node:fs/promises'
import { transformSync } from 'amaro'

/** @type {import('node:module').ResolveHook} */
export async function resolve (specifier, context, nextResolve) {
  try {
    return await nextResolve(specifier, context)
  } catch (error) {
    // TypeScript modules are imported by the names of the files that the compiler creates.
    if (!specifier.endsWith('.js')) throw error
    return await nextResolve(`${specifier.slice(0, -2)}ts`, context)
  }
}

/** @type {import('node:module').LoadHook} */
export async function load (url, context, nextLoad) {
  if (!url.startsWith('file:') || !url.endsWith('.ts')) return await nextLoad(url, context)
  const { code } = transformSync(await readFile(new URL(url), 'utf8'), { mode: 'strip-only' })
  return { format: 'module', shortCircuit: true, source: code }
}
