// Answers that are streamed token by token, like those of ChatGPT. Each answer is a run: it does not depend on the page that asked.
import sseSessions from 'fastify-sse-sessions'
import { addPage } from '../site.js'
import { answer } from './answer.js'

/** @import { FastifyInstance } from 'fastify' */
/** @import { SseSessionsOptions } from 'fastify-sse-sessions' */

const HOUR = 3_600_000

const body = { type: 'object', required: ['question'], properties: { question: { type: 'string', minLength: 1, maxLength: 500 } } }

/**
 * By default, answers are in the memory of one process. For several processes, pass a store that they share.
 * @param {FastifyInstance} app
 * @param {Pick<SseSessionsOptions, 'store'>} options
 */
export default async function tokens (app, options) {
  await app.register(sseSessions, { prefix: '/tokens', retry: 500, ...options })
  addPage(app, '/tokens', 'Tokens', 'tokens/index.html')

  // The header `Location` of the response is the URL of the answer: GET reads it from its beginning, and DELETE stops it.
  app.post('/tokens/answers', { resumable: { keep: HOUR }, schema: { body } }, async (request, reply) => {
    const { question } = /** @type {{ question: string }} */ (request.body)
    return reply.events(({ signal }) => answer(question, signal))
  })
}
