import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { memoryStore, StoreUnavailable, type QueuedMessage, type Sessions, type StoreFactory } from '../../lib/index.js'
import { openStream, postMessage, type HttpResponse } from '../support/http-client.js'
import { serve } from '../support/server.js'

/** A store like that of several processes: when its lease has ended, another process may handle the messages. */
class LeasedStore {
  hasLease = true

  readonly createStore: StoreFactory = async (...args) => {
    const store = await memoryStore(...args)
    const messageQueue = store.messageQueue.bind(store)
    return Object.assign(store, {
      messageQueue: (...args: Parameters<typeof messageQueue>) => {
        const queue = messageQueue(...args)
        return {
          enqueue: (message: QueuedMessage) => queue.enqueue(this.#withLease(message)),
          enqueueAll: (messages: readonly QueuedMessage[]) => queue.enqueueAll(messages.map(this.#withLease))
        }
      }
    })
  }

  readonly #withLease = (message: QueuedMessage): QueuedMessage => ({
    ...message,
    handle: () => message.handle(() => { if (!this.hasLease) throw new StoreUnavailable() })
  })
}

interface Case {
  readonly title: string
  /** The messages of a batch before the message; `undefined` if it is not in a batch. */
  readonly before?: ReadonlyArray<{ event: string }>
  readonly beforeRegister?: (app: FastifyInstance, endLease: () => void) => void
  readonly setUp?: (sessions: Sessions, endLease: () => void) => void
}

const cases: readonly Case[] = [
  {
    title: 'an async validator',
    beforeRegister: (app, endLease) => {
      const validate = async (data: unknown): Promise<unknown> => {
        endLease()
        return data
      }
      Reflect.apply(app.setValidatorCompiler, app, [() => validate])
    }
  },
  { title: 'a preHandle hook', setUp: (sessions, endLease) => { sessions.addHook('preHandle', async () => { endLease() }) } },
  {
    title: 'a hook of the app for a message of a batch',
    before: [],
    beforeRegister: (app, endLease) => {
      app.addHook('preHandler', async ({ url }) => { if (url.includes('batch/message')) endLease() })
    }
  },
  {
    title: 'the refusal of the message before it in a batch',
    before: [{ event: 'invalid' }],
    beforeRegister: (app, endLease) => {
      app.setErrorHandler((error: { statusCode?: number }, _request, reply) => {
        if (error.statusCode === 404) endLease()
        reply.send(error)
      })
    }
  }
]

for (const { title, before, beforeRegister, setUp } of cases) {
  t.test(`starts no handler if the lease ends during ${title}`, async t => {
    const store = new LeasedStore()
    let isFirst = true
    const endLease = (): void => {
      if (isFirst) store.hasLease = false
      isFirst = false
    }
    const { sessions, url } = await serve(t, { store: store.createStore }, { beforeRegister: app => { beforeRegister?.(app, endLease) } })
    setUp?.(sessions, endLease)
    let runs = 0
    sessions.handle('job', { schema: {} }, () => `run ${++runs}`)
    const { sessionId } = await openStream(t, url)
    const post = async (): Promise<Pick<HttpResponse, 'status' | 'body'>> => {
      if (before === undefined) return await postMessage(url, sessionId, 1, { event: 'job', key: 'k' })
      const lines = [...before, { event: 'job', id: 'k', data: 1 }].map(message => JSON.stringify(message)).join('\n')
      const { body } = await postMessage(url, sessionId, lines, { headers: { 'content-type': 'application/x-ndjson' } })
      return (body as Array<Pick<HttpResponse, 'status' | 'body'>>).at(-1) ?? { status: 0, body: undefined }
    }
    t.match(await post(), { status: 503, body: { code: 'FST_SSE_STORE_UNAVAILABLE' } })
    t.equal(store.hasLease, false)
    t.equal(runs, 0)
    store.hasLease = true
    t.match(await post(), { status: 200, body: 'run 1' })
    t.match(await post(), { status: 200, body: 'run 1' })
  })
}
