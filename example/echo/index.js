// An echo server, with a page to try it. The plugin echoes messages if the app registers no handler.
import sseSessions from 'fastify-sse-sessions'
import { serveFile } from '../serve-file.js'

/** @import { FastifyInstance } from 'fastify' */

/** @param {FastifyInstance} app */
export default async function echo (app) {
  await app.register(sseSessions)
  app.get('/', serveFile(new URL('index.html', import.meta.url)))
}
