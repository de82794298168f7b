// What the pages of all examples share: the links between them, their style, the client, and their source files.
import { readdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

/** @import { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify' */

const FOLDER = new URL('.', import.meta.url)
/** @type {Map<string, string>} the titles of the pages that this process serves, by path */
const pages = new Map()

/**
 * Serves the page of an example. Its `nav` element gets links to all pages that this process serves.
 * @param {FastifyInstance} app
 * @param {string} path
 * @param {string} title
 * @param {string} file relative to this folder
 */
export function addPage (app, path, title, file) {
  pages.set(path, title)
  app.get(path, async (_request, reply) => {
    const links = Array.from(pages, ([href, text]) => `<a href="${href}"${href === path ? ' aria-current="page"' : ''}>${text}</a>`)
    const html = await readFile(new URL(file, FOLDER), 'utf8')
    return reply.type('text/html; charset=utf-8').send(html.replace('<nav></nav>', `<nav>${links.join(' ')}</nav>`))
  })
}

/**
 * Serves a module and its imports as one file for browsers, which is created for the first request.
 * @param {FastifyInstance} app
 * @param {string} path
 * @param {string} file relative to this folder
 */
export function addBundle (app, path, file) {
  /** @type {Promise<string> | undefined} */
  let bundle
  app.get(path, async (_request, reply) => {
    bundle ??= createBundle(fileURLToPath(new URL(file, FOLDER)))
    return reply.type('text/javascript; charset=utf-8').send(await bundle)
  })
}

/** @param {string} input */
async function createBundle (input) {
  // Loaded when it is needed, because it slows down the start.
  const { build } = await import('rolldown')
  const { output: [{ code }] } = await build({
    input,
    platform: 'browser',
    transform: { define: { 'process.env.NODE_ENV': '"production"' } },
    output: { minify: true, codeSplitting: false },
    write: false,
    // The directive is for frameworks that also render on the server.
    onLog: (level, log, handler) => { if (log.code !== 'MODULE_LEVEL_DIRECTIVE') handler(level, log) }
  })
  return code
}

/**
 * Serves what the pages load, and the source files of the examples as text.
 * @param {FastifyInstance} app
 */
export function addAssets (app) {
  app.get('/style.css', serveFile(new URL('style.css', FOLDER), 'text/css'))
  app.get('/client.js', serveFile(new URL(import.meta.resolve('fastify-sse-sessions/client/bundle')), 'text/javascript'))
  for (const name of readdirSync(FOLDER, { recursive: true, encoding: 'utf8' })) {
    const path = name.replaceAll('\\', '/')
    if (/\.\w+$/.test(path)) app.get(`/source/${path}`, serveFile(new URL(path, FOLDER), 'text/plain'))
  }
}

/**
 * Creates a route handler that reads a file for each request, so that a reload shows an edit.
 * @param {URL} url
 * @param {string} type
 */
function serveFile (url, type) {
  return async (/** @type {FastifyRequest} */ _request, /** @type {FastifyReply} */ reply) => reply.type(`${type}; charset=utf-8`).send(await readFile(url))
}
