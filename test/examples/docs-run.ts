import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { Page } from 'playwright-core'
import type { Test } from 'tap'
import { openContext } from '../support/browser.js'
import { runScript, trackProcess, type TrackedProcess } from '../support/child-process.js'
import { withTimeout } from '../support/wait.js'
import { root } from './docs.js'

/** Writes code to a file in a new folder, TypeScript without its types. Returns the path of the file. */
export type Save = (name: string, code: string) => string

/** Creates a folder for the code of a test, removed when the test ends. It is in the repository, so that the package resolves its own name; needs `npm run build`. */
export function createFolder (t: Test): Save {
  mkdirSync(`${root}.ci-output`, { recursive: true })
  const folder = mkdtempSync(`${root}.ci-output/docs-`)
  t.teardown(() => { rmSync(folder, { recursive: true }) })
  return (name, code) => {
    const path = `${folder}/${name.replace(/\.ts$/, '.js')}`
    writeFileSync(path, name.endsWith('.ts') ? toJavaScript(code) : code)
    return path
  }
}

/** Strips types, as Node itself does from version 22.18 on. */
function toJavaScript (code: string): string {
  // Loaded only here, because it takes longer than most tests.
  const { transformSync } = createRequire(import.meta.url)('amaro') as typeof import('amaro')
  return transformSync(code, { mode: 'strip-only' }).code
}

/** Starts a file that listens on the port of the variable PORT and prints its URL; resolves with the URL. It is killed when the test ends. */
export async function startApp (t: Test, file: string, env: Record<string, string> = {}): Promise<string> {
  const [url] = await runScript(t, file, { PORT: '0', ...env }).waitForOutput(/http:\/\/[^\s/]+/, 30_000)
  return url
}

/** Runs a file to its end, asserts that it succeeds, and resolves with what it printed. */
export async function runToEnd (t: Test, file: string, env: Record<string, string> = {}, args: string[] = [], ms = 30_000): Promise<string> {
  const child = trackProcess(t, spawn(process.execPath, [file, ...args], { cwd: root, detached: true, env: { PATH: process.env.PATH, ...env } }), file)
  const [code] = await withTimeout(once(child.process, 'exit'), `the end of ${file}`, ms) as [number]
  t.equal(code, 0, child.output())
  return child.output()
}

/** Runs a command line in a shell, in the top folder of the repository; it is killed when the test ends. */
export function runCommand (t: Test, command: string, env: Record<string, string> = {}): TrackedProcess {
  return trackProcess(t, spawn('sh', ['-c', `exec ${command.trim()}`], { cwd: root, detached: true, env: { PATH: process.env.PATH, ...env } }), command)
}

/** Runs a fragment, in JavaScript without imports or in TypeScript, as the body of an async function with the given names. */
export async function runFragment (code: string, names: Record<string, unknown>): Promise<unknown> {
  const AsyncFunction = (async () => {}).constructor as new (...args: string[]) => (...values: unknown[]) => Promise<unknown>
  // Only the body of a function may contain `return` and `await`.
  const [start, end] = ['async () => {', '\n}']
  const body = toJavaScript(start + code + end).slice(start.length, -end.length)
  return await new AsyncFunction(...Object.keys(names), body)(...Object.values(names))
}

/** Opens Chromium with a page in the origin of an app, which serves all other paths. `script` is served as `/page.js`. */
export async function createPage (t: Test, url: string, html: string, script = ''): Promise<Page> {
  const page = await (await openContext(t)).newPage()
  await page.route(`${url}/`, route => route.fulfill({ contentType: 'text/html', body: html }))
  await page.route(`${url}/page.js`, route => route.fulfill({ contentType: 'text/javascript', body: script }))
  return page
}
