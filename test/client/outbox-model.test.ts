import assert from 'node:assert/strict'
import { mock } from 'node:test'
import t from 'tap'
import { ClientError } from '../../lib/client/errors.js'
import { createOutbox, type Outbox } from '../../lib/client/outbox.js'
import { createSend } from '../../lib/client/send.js'
import { chooseSeed, createRandom } from '../support/random.js'

// Messages, responses, lost streams, lost responses and restarts of the server come in any interleaving. Each message must
// settle once, in order, and must be handled at most once, also across sessions.

const HISTORIES = 500
const STEPS = 60

type Step = [name: string, weight: number, run: () => unknown]

class NotSentError extends Error {}

interface SentMessage {
  readonly number: number
  /** Whether the server rejects it. */
  readonly isInvalid: boolean
  readonly controller: AbortController
  /** The number of attempts whose outcome the client cannot know. */
  uncertain: number
  handledCount: number
  /** `ok`, or the code of the error. */
  outcome?: string
}

/** A request whose headers have not resolved yet. */
interface UnresolvedHeaders {
  readonly resolve: (headers: Record<string, string>) => void
  readonly reject: (error: Error) => void
}

interface Post {
  readonly sessionId: string
  readonly messages: SentMessage[]
  readonly keys: string[]
  readonly resolve: (response: Response) => void
  readonly reject: (error: Error) => void
  isAborted: boolean
  response?: Response
}

const UNKNOWN_SESSION = { code: 'FST_SSE_SESSION_UNKNOWN' }

const createResponse = (status: number, body: unknown = {}): Response =>
  ({ ok: status === 200, status, headers: new Headers(), json: async () => body }) as unknown as Response

class History {
  readonly counts: Record<string, number>
  readonly messages: SentMessage[] = []
  /** Messages in the order in which the server has handled them. */
  readonly #handled: SentMessage[] = []
  readonly #unresolved = new Set<UnresolvedHeaders>()
  /** POSTs whose response has not arrived. The server may handle aborted ones later. */
  #posts: Post[] = []
  #restarts = 0
  #clientRestarts = 0
  #results = new Map<string, unknown>()
  readonly #random: () => number
  readonly #outbox: Outbox

  constructor (random: () => number, counts: Record<string, number>) {
    this.#random = random
    this.counts = counts
    const send = createSend('http://server', {
      headers: () => new Promise((resolve, reject) => { this.#unresolved.add({ resolve, reject }) }),
      fetch: (_url, init) => this.#fetch(init)
    }, { fetch, isUnsent: error => error instanceof NotSentError }, new Map(), new AbortController().signal, () => {})
    this.#outbox = createOutbox(send, '/upward', { timeout: Infinity, maxQueued: Infinity }, { retryDelay: 1 }, {
      onStale: () => {},
      reportError: error => { assert.fail(String(error)) }
    })
  }

  #fetch ({ body, headers, signal }: RequestInit): Promise<Response> {
    if (signal?.aborted === true) return Promise.reject(new Error('aborted'))
    const lines = String(body).split('\n').map(line => JSON.parse(line) as { data: number, id: string })
    const messages = lines.map(({ data }) => this.messages[data] as SentMessage)
    for (const message of messages) message.uncertain++
    return new Promise((resolve, reject) => {
      const post: Post = { sessionId: (headers as Record<string, string>)['x-session-id'] ?? '', messages, keys: lines.map(({ id }) => id), resolve, reject, isAborted: false }
      this.#posts.push(post)
      signal?.addEventListener('abort', () => {
        post.isAborted = true
        reject(new Error('aborted'))
      })
    })
  }

  get #sessionId (): string {
    return `s${this.#restarts}`
  }

  /** What the server does with a POST. */
  #handle ({ sessionId, messages, keys }: Post): Response {
    if (sessionId !== this.#sessionId) return createResponse(404, UNKNOWN_SESSION)
    if (messages.length > 3) return createResponse(413)
    const chooseIndex = (probability: number): number => this.#random() < probability ? Math.floor(this.#random() * messages.length) : Infinity
    const failsFrom = chooseIndex(0.2)
    // The first message for which the server no longer has the session.
    const lostFrom = chooseIndex(0.1)
    const results = messages.map((message, index) => {
      if (index >= lostFrom) return { status: 404, body: UNKNOWN_SESSION }
      const key = keys[index] ?? ''
      if (this.#results.has(key)) return { ...this.#results.get(key) as object, replayed: true }
      if (index >= failsFrom) return { status: 503, body: {} }
      if (message.isInvalid) return { status: 400, body: { code: 'INVALID' } }
      message.handledCount++
      this.#handled.push(message)
      const result = { status: 200, body: message.number }
      this.#results.set(key, result)
      return result
    })
    if (lostFrom !== Infinity) this.#restart()
    return createResponse(200, results)
  }

  #restart (): void {
    this.#restarts++
    this.#results = new Map()
  }

  /** Removes a POST from the network, and gives the client its response or error. */
  #settle (post: Post, result: Response | Error, isUnhandled: boolean): void {
    this.#posts.splice(this.#posts.indexOf(post), 1)
    if (post.isAborted) return
    if (isUnhandled) for (const message of post.messages) message.uncertain--
    if (result instanceof Error) post.reject(result)
    else post.resolve(result)
  }

  async #respond (post: Post): Promise<void> {
    const response = post.response ??= this.#handle(post)
    const results = await response.json() as Array<{ status: number, replayed?: boolean }>
    if (response.ok && !post.isAborted) post.messages.forEach((message, index) => { if ([404, 503].includes(results[index]?.status ?? 0)) message.uncertain-- })
    this.#settle(post, response, !response.ok)
  }

  #push (): void {
    const message: SentMessage = { number: this.messages.length, isInvalid: this.#random() < 0.05, controller: new AbortController(), uncertain: 0, handledCount: 0 }
    this.messages.push(message)
    const settle = (outcome: string): void => {
      assert.equal(message.outcome, undefined, 'settles once')
      message.outcome = outcome
    }
    this.#outbox.push('event', message.number, `${message.number}`, { signal: message.controller.signal }).result.then(result => {
      assert.equal(result, message.number)
      settle('ok')
    }, (error: unknown) => { settle(error instanceof ClientError ? error.code : 'aborted') })
  }

  async #resume (): Promise<void> {
    const isReset = this.#clientRestarts !== this.#restarts
    this.#clientRestarts = this.#restarts
    const open = this.messages.filter(({ outcome }) => outcome === undefined)
    this.#outbox.resume({ sessionId: this.#sessionId, resumed: !isReset })
    await drain()
    if (!isReset) return
    for (const { number, uncertain, outcome } of open) {
      assert.equal(outcome === 'RESET', uncertain > 0, `message ${number} with ${uncertain} uncertain attempts: ${outcome}`)
    }
  }

  /** The steps that are possible now, with their weights. */
  #steps (): Step[] {
    const pick = <T>(items: readonly T[]): T => items[Math.floor(this.#random() * items.length)] as T
    const steps: Step[] = [
      ['push', 6, () => { this.#push() }],
      ['retry', 6, () => { mock.timers.tick(1) }],
      ['time out', 0.3, () => { mock.timers.tick(15_000) }],
      ['lose the stream', 1, () => { this.#outbox.pause(new Error('lost')) }],
      ['resume', 3, () => this.#resume()],
      ['restart', 0.6, () => { this.#restart() }]
    ]
    const open = this.messages.filter(({ outcome }) => outcome === undefined)
    if (open.length > 0) steps.push(['abort a message', 0.3, () => { pick(open).controller.abort() }])
    if (this.#unresolved.size > 0) {
      const headers = pick([...this.#unresolved])
      steps.push(['resolve headers', 10, () => {
        this.#unresolved.delete(headers)
        headers.resolve({})
      }], ['fail headers', 0.5, () => {
        this.#unresolved.delete(headers)
        headers.reject(new Error('no token'))
      }])
    }
    if (this.#posts.length > 0) {
      const post = pick(this.#posts)
      steps.push(
        ['respond', 10, () => this.#respond(post)],
        ['handle', 3, () => { post.response ??= this.#handle(post) }],
        ['lose a POST', 1, () => { this.#settle(post, new TypeError('network'), false) }],
        ['respond with 502', 1, () => { this.#settle(post, createResponse(502), false) }],
        ['respond with 503 of a proxy', 1, () => { this.#settle(post, createResponse(503), false) }],
        ['respond with a page', 0.5, () => { this.#settle(post, createResponse(200, 'Log in'), false) }]
      )
      if (post.response === undefined) {
        steps.push(
          ['refuse a POST', 1, () => { this.#settle(post, new NotSentError(), true) }],
          ['respond with 503 of the server', 1, () => { this.#settle(post, createResponse(503, { code: 'FST_SSE_CLOSING' }), true) }],
          ['respond with 429', 1, () => { this.#settle(post, createResponse(429), true) }]
        )
      }
    }
    return steps
  }

  async run (): Promise<void> {
    for (let step = 0; step < STEPS; step++) {
      const steps = this.#steps()
      let choice = this.#random() * steps.reduce((sum, [, weight]) => sum + weight, 0)
      const [name, , run] = steps.find(([, weight]) => (choice -= weight) < 0) ?? steps[0] ?? assert.fail()
      this.counts[name] = (this.counts[name] ?? 0) + 1
      await run()
      await drain()
    }
    await this.#finish()
    this.#check()
  }

  /** Lets all messages settle: the network and the server work from now on. */
  async #finish (): Promise<void> {
    await this.#resume()
    for (let round = 0; this.messages.some(({ outcome }) => outcome === undefined); round++) {
      assert.ok(round < 500, 'all messages settle')
      for (const headers of this.#unresolved) headers.resolve({})
      this.#unresolved.clear()
      await drain()
      for (const post of [...this.#posts]) await this.#respond(post)
      await drain()
      // After a response of a session that the server no longer has, the client waits for the next stream.
      await this.#resume()
      mock.timers.tick(1)
      await drain()
    }
  }

  #check (): void {
    for (const { number, isInvalid, handledCount, outcome = '' } of this.messages) {
      this.counts[outcome] = (this.counts[outcome] ?? 0) + 1
      assert.ok(handledCount <= 1, `message ${number} is handled at most once`)
      if (outcome === 'ok') assert.equal(handledCount, 1)
      else if (outcome === 'INVALID') assert.ok(isInvalid)
      else assert.ok(outcome === 'RESET' || outcome === 'aborted', `message ${number} fails with ${outcome}`)
    }
    const order = this.#handled.filter(({ outcome }) => outcome === 'ok').map(({ number }) => number)
    assert.deepEqual(order, order.toSorted((a, b) => a - b), 'in order')
  }
}

/** Waits until all promises that can settle have settled. */
const drain = async (): Promise<void> => { await new Promise(resolve => { setImmediate(resolve) }) }

t.test('each message settles once, is handled at most once and in order, and is rejected with RESET only if it may have been handled', async t => {
  const seed = chooseSeed(t)
  const originalRandom = Math.random
  Math.random = () => 0
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => {
    Math.random = originalRandom
    mock.timers.reset()
  })
  const counts: Record<string, number> = {}
  for (let number = 0; number < HISTORIES; number++) {
    try {
      await new History(createRandom(seed + number), counts).run()
    } catch (error) {
      throw new Error(`History ${number}: ${(error as Error).message}; repeat it with SEED=${seed + number}`, { cause: error })
    }
  }
  t.comment(JSON.stringify(counts))
  for (const [what, count] of Object.entries(counts)) t.ok(count > 50, `${what}: ${count} times`)
})
