import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'

// To load amaro and to strip the types takes longer than most tests, so the results are kept for other processes.
const cache = new URL('../../node_modules/.cache/strip-types/', import.meta.url)

/** @type {import('node:module').ResolveHook} */
export async function resolve (specifier, context, nextResolve) {
  // TypeScript modules are imported by the names of the files that the compiler creates.
  if (/^(\.|file:).*\.js$/.test(specifier)) {
    const url = new URL(`${specifier.slice(0, -2)}ts`, context.parentURL)
    if (existsSync(url)) return { url: url.href, format: 'module', shortCircuit: true }
  }
  return await nextResolve(specifier, context)
}

/** @type {import('node:module').LoadHook} */
export async function load (url, context, nextLoad) {
  if (!url.startsWith('file:') || !url.endsWith('.ts')) return await nextLoad(url, context)
  const text = await readFile(new URL(url), 'utf8')
  const cached = new URL(createHash('sha256').update(text).digest('hex'), cache)
  const source = await readFile(cached, 'utf8').catch(async () => {
    const { transformSync } = await import('amaro')
    const { code } = transformSync(text, { mode: 'strip-only' })
    await mkdir(cache, { recursive: true })
    // Other processes never read a part of it.
    const temporary = new URL(`${cached.href}.${process.pid}`)
    await writeFile(temporary, code)
    await rename(temporary, cached)
    return code
  })
  return { format: 'module', shortCircuit: true, source }
}
