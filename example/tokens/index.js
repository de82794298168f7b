// Answers that grow like ChatGPT's. They grow in a conversation, which outlives the page that looks at it.
import sseSessions from 'fastify-sse-sessions'
import { serveFile } from '../serve-file.js'
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

const string = { type: 'string', minLength: 1, maxLength: 500 }
const following = { type: 'object', properties: { conversation: string } }
const asking = { type: 'object', required: ['conversation', 'question'], properties: { conversation: string, question: string } }
const stopping = { type: 'object', required: ['conversation'], properties: { conversation: string } }

/** @type {(statusCode: number, message: string) => Error} */
const refusal = (statusCode, message) => Object.assign(new Error(message), { statusCode })

/** @param {FastifyInstance} app */
export default async function tokens (app) {
  await app.register(sseSessions, { prefix: '/tokens', retry: 500 })
  app.get('/tokens', serveFile(new URL('index.html', import.meta.url)))

  /** @type {ContractSessions<Tokens>} */
  const sessions = app.sseSessions.withContract()
  /** @type {Map<string, Conversation>} */
  const conversations = new Map()

  function begin () {
    const conversation = new Conversation()
    conversations.set(conversation.id, conversation)
    const [oldest = ''] = conversations.keys()
    if (conversations.size > MAX_CONVERSATIONS) conversations.delete(oldest)
    return conversation
  }

  /** @param {string} id */
  function find (id) {
    const conversation = conversations.get(id)
    if (conversation === undefined) throw refusal(404, 'There is no such conversation any more')
    return conversation
  }

  sessions.handle('follow', { schema: following }, (session, { conversation: id = '' }) => {
    const conversation = conversations.get(id) ?? begin()
    // Not awaited: it goes on as long as the session does.
    session.stream('part', conversation.follow(session.signal))
    return { conversation: conversation.id }
  })

  sessions.handle('ask', { schema: asking }, (_session, { conversation: id, question }) => {
    const conversation = find(id)
    if (conversation.growing !== undefined) throw refusal(409, 'One question at a time')
    // Not awaited either: the answer needs nobody who waits for it.
    grow(conversation, question)
  })

  sessions.handle('stop', { schema: stopping }, (_session, { conversation }) => { find(conversation).growing?.abort() })

  /** @type {(conversation: Conversation, question: string) => Promise<void>} */
  async function grow (conversation, question) {
    const { signal } = conversation.growing = new AbortController()
    conversation.add({ question })
    try {
      for await (const token of answer(question, signal)) conversation.add({ token })
      conversation.add({ end: 'finished' })
    } catch (error) {
      if (!signal.aborted) app.log.error(error)
      conversation.add({ end: signal.aborted ? 'stopped' : 'failed' })
    }
    conversation.growing = undefined
  }
}
