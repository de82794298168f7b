// Answers that are streamed token by token, like those of ChatGPT. A conversation stays on the server after its page is closed.
import sseSessions from 'fastify-sse-sessions'
import { addPage } from '../site.js'
import { answer } from './answer.js'
import { Conversation } from './conversation.js'

/** @import { FastifyInstance } from 'fastify' */
/** @import { ContractSessions } from 'fastify-sse-sessions' */
/** @import { Part } from './conversation.js' */

/**
 * @typedef {object} Tokens
 * @property {{ part: Part }} down
 * @property {{
 *   follow: (data: { conversation?: string }) => { conversation: string },
 *   ask: (data: { conversation: string, question: string }) => void,
 *   stop: (data: { conversation: string }) => void
 * }} up
 */

const MAX_CONVERSATIONS = 1000

const text = { type: 'string', minLength: 1, maxLength: 500 }
const followSchema = { type: 'object', properties: { conversation: text } }
const askSchema = { type: 'object', required: ['conversation', 'question'], properties: { conversation: text, question: text } }
const stopSchema = { type: 'object', required: ['conversation'], properties: { conversation: text } }

/** @type {(statusCode: number, message: string) => Error} */
const createError = (statusCode, message) => Object.assign(new Error(message), { statusCode })

/** @param {FastifyInstance} app */
export default async function tokens (app) {
  await app.register(sseSessions, { prefix: '/tokens', retry: 500 })
  addPage(app, '/tokens', 'Tokens', 'tokens/index.html')

  /** @type {ContractSessions<Tokens>} */
  const sessions = app.sseSessions.withContract()
  /** @type {Map<string, Conversation>} */
  const conversations = new Map()

  function createConversation () {
    const conversation = new Conversation()
    conversations.set(conversation.id, conversation)
    const [oldest = ''] = conversations.keys()
    if (conversations.size > MAX_CONVERSATIONS) conversations.delete(oldest)
    return conversation
  }

  /** @param {string} id */
  function find (id) {
    const conversation = conversations.get(id)
    if (conversation === undefined) throw createError(404, 'This conversation no longer exists')
    return conversation
  }

  sessions.handle('follow', { schema: followSchema }, (session, { conversation: id = '' }) => {
    const conversation = conversations.get(id) ?? createConversation()
    // Not awaited: the stream continues until the session is closed.
    session.stream('part', conversation.follow(session.signal))
    return { conversation: conversation.id }
  })

  sessions.handle('ask', { schema: askSchema }, (_session, { conversation: id, question }) => {
    const conversation = find(id)
    if (conversation.abortController !== undefined) throw createError(409, 'Wait until the current answer has ended')
    // Not awaited: the answer continues without the request, the session or the page.
    generate(conversation, question)
  })

  sessions.handle('stop', { schema: stopSchema }, (_session, { conversation }) => { find(conversation).abortController?.abort() })

  /** @type {(conversation: Conversation, question: string) => Promise<void>} */
  async function generate (conversation, question) {
    const { signal } = conversation.abortController = new AbortController()
    conversation.add({ question })
    try {
      for await (const token of answer(question, signal)) conversation.add({ token })
      conversation.add({ end: 'finished' })
    } catch (error) {
      if (!signal.aborted) app.log.error(error)
      conversation.add({ end: signal.aborted ? 'stopped' : 'failed' })
    }
    conversation.abortController = undefined
  }
}
