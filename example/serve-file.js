import { readFile } from 'node:fs/promises'

/** @import { FastifyReply, FastifyRequest } from 'fastify' */

/**
 * Creates a route handler that sends a file. It reads the file for each request, so that a reload shows an edit.
 * @param {string | URL} url
 * @param {string} type
 */
export const serveFile = (url, type = 'text/html') => async (/** @type {FastifyRequest} */ _request, /** @type {FastifyReply} */ reply) => {
  return reply.type(`${type}; charset=utf-8`).send(await readFile(new URL(url)))
}
