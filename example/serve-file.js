import { readFile } from 'node:fs/promises'

/** @import { FastifyReply, FastifyRequest } from 'fastify' */

/**
 * A handler that answers with a file; it is read each time, so that an edit shows on reload.
 * @param {string | URL} url
 * @param {string} type
 */
export const serveFile = (url, type = 'text/html') => async (/** @type {FastifyRequest} */ _request, /** @type {FastifyReply} */ reply) => {
  return reply.type(`${type}; charset=utf-8`).send(await readFile(new URL(url)))
}
