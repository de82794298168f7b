// A chat with the AI SDK. Its answers continue after a reload, appear in every tab, and can be stopped from each of them. The page uses React.
import { convertToModelMessages, generateId, streamText } from 'ai'
import sseSessions from 'fastify-sse-sessions'
import { addBundle, addPage } from '../site.js'
import { model } from './model.js'

/** @import { UIMessage } from 'ai' */
/** @import { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify' */
/** @import { Run, RunReplyOptions } from 'fastify-sse-sessions' */

const MAX_CHATS = 1000

const id = { type: 'string', minLength: 16, maxLength: 64 }
const params = { type: 'object', required: ['id'], properties: { id } }
const body = { type: 'object', required: ['id', 'messages'], properties: { id, messages: { type: 'array', minItems: 1, maxItems: 1000, items: { type: 'object' } } } }

// What the page expects at the end of an answer.
const failed = { type: 'error', errorText: 'The answer has failed' }
const lastChunks = { running: [], finished: [], stopped: [{ type: 'abort' }], failed: [failed], lost: [failed] }
/** @type {RunReplyOptions} */
const format = {
  finalFrame: ({ status }) => [...lastChunks[status].map(chunk => JSON.stringify(chunk)), '[DONE]'].map(data => `data: ${data}\n\n`).join('')
}

/** @param {FastifyInstance} app */
export default async function ai (app) {
  await app.register(sseSessions, { prefix: '/ai', retry: 500 })
  addPage(app, '/ai', 'AI', 'ai/index.html')
  addBundle(app, '/ai/page.js', 'ai/page.jsx')

  const { runs } = app.sseSessions
  /** @type {Map<string, UIMessage[]>} the messages of each chat, without an answer that is running */
  const chats = new Map()

  /** @type {(id: string, messages: UIMessage[]) => void} */
  function store (id, messages) {
    chats.set(id, messages)
    const [oldest = ''] = chats.keys()
    if (chats.size > MAX_CHATS) chats.delete(oldest)
  }

  /** @type {(id: string, run: Run, request: FastifyRequest, reply: FastifyReply) => FastifyReply} */
  function follow (id, run, request, reply) {
    // A page that has lost its connection continues at the Location.
    return run.reply(request, reply.header('location', `/ai/chats/${id}/stream`), format)
  }

  app.post('/ai/chats', { schema: { body } }, async (request, reply) => {
    const { id, messages } = /** @type {{ id: string, messages: UIMessage[] }} */ (request.body)
    const modelMessages = await convertToModelMessages(messages)
    const run = await runs.start(id, { reuse: 'never' }, ({ signal }) => {
      store(id, messages)
      const result = streamText({ model, messages: modelMessages, abortSignal: signal })
      return result.toUIMessageStream({ originalMessages: messages, generateMessageId: generateId, onFinish: ({ messages }) => { store(id, messages) } })
    })
    return follow(id, run, request, reply)
  })

  app.get('/ai/chats/:id', { schema: { params } }, async request => {
    const { id } = /** @type {{ id: string }} */ (request.params)
    return chats.get(id) ?? []
  })

  app.get('/ai/chats/:id/stream', { schema: { params } }, async (request, reply) => {
    const { id } = /** @type {{ id: string }} */ (request.params)
    const run = await runs.find(id)
    // A page that was loaded needs only an answer that is running.
    if (run?.status !== 'running' && !('last-event-id' in request.headers)) return reply.code(204).send()
    return run === undefined ? reply.code(404).send({ message: 'There is no such answer' }) : follow(id, run, request, reply)
  })

  app.delete('/ai/chats/:id', { schema: { params } }, async (request, reply) => {
    const { id } = /** @type {{ id: string }} */ (request.params)
    const run = await runs.find(id)
    await run?.stop('user')
    return reply.code(204).send()
  })
}
