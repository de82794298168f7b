// An echo server, with a page to try it. The plugin echoes messages if the app registers no handler.
import sseSessions from 'fastify-sse-sessions'
import { addPage } from '../site.js'

/** @import { FastifyInstance } from 'fastify' */

/** @param {FastifyInstance} app */
export default async function echo (app) {
  // Pages of any origin may connect, so that you can try a page of your own.
  await app.register(sseSessions, { cors: true })
  addPage(app, '/', 'Echo', 'echo/index.html')
}
