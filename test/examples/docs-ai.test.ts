import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { readUIMessageStream, type UIMessage, type UIMessageChunk } from 'ai'
import t, { type Test } from 'tap'
import { needsChromium } from '../support/browser.js'
import { runScript, type TrackedProcess } from '../support/child-process.js'
import { eventSources } from '../support/event-sources.js'
import { startFaultProxy, type FaultProxy } from '../support/fault-proxy.js'
import { chooseSeed, createRandom } from '../support/random.js'
import { needsRedis, startRedis } from '../support/redis-server.js'
import { waitUntil, withTimeout } from '../support/wait.js'
import { block } from './docs.js'
import { createFolder, createPage, type Save } from './docs-run.js'

const WORDS = 80
const ANSWER = Array.from({ length: WORDS }, (_, n) => `${n} `).join('')
const QUESTION = 'Count!'

// A model that answers with words, one every 10 ms, for each kind of server. It ends when its request is aborted. An answer that a test
// stops is so long that it does not end before on a slow machine.
const FILES = {
  'model.js': `
    import { simulateReadableStream } from 'ai'
    import { MockLanguageModelV3 } from 'ai/test'
    const getWords = messages => Array.from({ length: JSON.stringify(messages).includes('Stop') ? 6000 : ${WORDS} }, (_, n) => n + ' ')
    export async function * answer (messages, signal) {
      signal?.addEventListener('abort', () => { console.log('stopped:', JSON.stringify(messages)) })
      for (const word of getWords(messages)) {
        if (signal?.aborted) return
        yield word
        await new Promise(resolve => setTimeout(resolve, 10))
      }
    }
    const end = { type: 'finish', finishReason: { unified: 'stop' }, usage: { inputTokens: { total: 1 }, outputTokens: { total: 1 } } }
    export const model = new MockLanguageModelV3({
      doStream: async ({ prompt, abortSignal }) => {
        abortSignal.addEventListener('abort', () => { console.log('stopped:', JSON.stringify(prompt)) })
        const chunks = [{ type: 'text-start', id: 't' }, ...getWords(prompt).map(delta => ({ type: 'text-delta', id: 't', delta })), { type: 'text-end', id: 't' }, end]
        return { stream: simulateReadableStream({ chunkDelayInMs: 20, chunks }) }
      }
    })`,
  'agent.js': `
    import { TaskState } from '@a2a-js/sdk'
    import { AgentEvent } from '@a2a-js/sdk/server'
    import { answer } from './model.js'
    export const card = { name: 'Counter', description: 'Counts', version: '1', capabilities: { streaming: true }, defaultInputModes: ['text/plain'], defaultOutputModes: ['text/plain'], skills: [] }
    export const executor = {
      async execute ({ taskId, contextId, userMessage }, bus) {
        bus.publish(AgentEvent.task({ id: taskId, contextId, status: { state: TaskState.TASK_STATE_WORKING }, artifacts: [], history: [userMessage] }))
        for await (const value of answer([userMessage])) {
          bus.publish(AgentEvent.artifactUpdate({ taskId, contextId, append: true, artifact: { artifactId: 'answer', parts: [{ content: { $case: 'text', value } }] } }))
        }
        bus.publish(AgentEvent.statusUpdate({ taskId, contextId, status: { state: TaskState.TASK_STATE_COMPLETED } }))
        bus.finished()
      },
      async cancelTask () {}
    }`
}

const SERVERS = {
  'ai-sdk': block('docs/ai/ai-sdk.md', 'server'),
  openai: block('docs/ai/openai.md', 'server'),
  'ag-ui': block('docs/ai/ag-ui.md', 'server'),
  tanstack: block('docs/ai/tanstack.md', 'server'),
  langgraph: block('docs/ai/langgraph.md', 'server'),
  a2a: block('docs/ai/a2a.md', 'server'),
  runs: block('docs/runs.md', 'routes')
}
type Page = keyof typeof SERVERS

/** A process that runs the servers of all pages. */
interface Node {
  readonly process: TrackedProcess
  readonly urls: Record<Page, string>
}

/** Starts the servers in one process. With `redisUrl`, they keep their runs in Redis. */
async function startNode (t: Test, save: Save, redisUrl?: string): Promise<Node> {
  for (const [name, code] of Object.entries(FILES)) save(name, code)
  const names = Object.keys(SERVERS) as Page[]
  for (const name of names) {
    const store = redisUrl === undefined ? '' : `, store: redisStore({ client: new Redis(process.env.REDIS_URL), namespace: '${name}', lease: 1000 })`
    const imports = redisUrl === undefined ? '' : "import { Redis } from 'ioredis'\nimport { redisStore } from 'fastify-sse-sessions/redis'\n"
    save(`${name}.ts`, imports + SERVERS[name].replace('register(sseSessions)', `register(sseSessions, { retry: 50${store} })`))
  }
  const process = runScript(t, save('node.js', names.map(name => `await import('./${name}.js')`).join('\n')), { PORT: '0', ...redisUrl !== undefined && { REDIS_URL: redisUrl } })
  const urls = await process.waitForOutput(new RegExp(names.map(() => '(http://\\S+)\\s+').join('')), 60_000)
  return { process, urls: Object.fromEntries(names.map((name, index) => [name, urls[index + 1]])) as Record<Page, string> }
}

const portOf = (url: string): number => Number(new URL(url).port)

/** Starts a proxy in front of the servers of a page that breaks connections at random until so many are broken, or more if several are open. */
async function startCuttingProxy (t: Test, nodes: readonly Node[], page: Page, cuts: number, { afterBytes = 900, range = 1200 } = {}): Promise<FaultProxy> {
  const random = createRandom(chooseSeed(t))
  const proxy: FaultProxy = await startFaultProxy(t, nodes.map(({ urls }) => portOf(urls[page])), connection => {
    return countCuts(proxy) < cuts ? { fault: connection % 2 === 0 ? 'cut' : 'reset', afterBytes: afterBytes + Math.floor(random() * range) } : undefined
  })
  return proxy
}

const countCuts = ({ connections }: FaultProxy): number => connections.filter(({ faulted }) => faulted).length

interface Context {
  readonly nodes: readonly [Node, ...Node[]]
  /** Saves the client of a page and imports it. */
  importClient<T> (page: Page, code: string): Promise<T>
}

type Check = (t: Test, context: Context) => Promise<void>

/** The node from which a second client reads, another one if there are several. */
const otherUrl = ({ nodes }: Context, page: Page): string => (nodes[1] ?? nodes[0]).urls[page]

/** Waits until the producer of the answer to a question was stopped. */
const waitForStop = ({ nodes }: Context, question: string): Promise<void> => {
  return waitUntil(() => nodes.some(({ process }) => process.output().split('\n').some(line => line.startsWith('stopped:') && line.includes(question))), `the stop of ${question}`)
}

const checkOpenAi: Check = async (t, context) => {
  type Ask = (baseURL: string, question: string, onText: (text: string) => void, signal?: AbortSignal) => Promise<void>
  const { ask } = await context.importClient<{ ask: Ask }>('openai', block('docs/ai/openai.md', 'client'))
  const proxy = await startCuttingProxy(t, context.nodes, 'openai', 4)
  let text = ''
  await withTimeout(ask(`${proxy.url}/v1`, QUESTION, part => { text += part }), 'the answer', 60_000)
  t.equal(text, ANSWER)
  t.ok(countCuts(proxy) >= 4)

  const controller = new AbortController()
  let received = 0
  await withTimeout(ask(`${context.nodes[0].urls.openai}/v1`, QUESTION, () => {
    received++
    controller.abort()
  }, controller.signal).catch((error: unknown) => { t.match(error, { name: /Abort|Error/ }) }), 'the end of the aborted answer')
  // The client still delivers what it has read before the abort.
  t.ok(received < WORDS)
}

const checkAgUi: Check = async (t, context) => {
  interface Message { readonly role: string, readonly content: string }
  interface Agent {
    readonly messages: readonly Message[]
    addMessage (message: object): void
    runAgent (options: object, subscriber?: object): Promise<unknown>
    abortRun (): void
  }
  const { createAgent } = await context.importClient<{ createAgent: (url: string) => { agent: Agent, stop: () => Promise<Response> } }>('ag-ui', block('docs/ai/ag-ui.md', 'client'))
  const open = (url: string, content = QUESTION): ReturnType<typeof createAgent> => {
    const opened = createAgent(`${url}/agent`)
    opened.agent.addMessage({ id: 'q', role: 'user', content })
    return opened
  }
  const lastText = ({ messages }: Agent): string => messages.at(-1)?.content ?? ''
  const proxy = await startCuttingProxy(t, context.nodes, 'ag-ui', 3)
  const { agent } = open(proxy.url)
  await withTimeout(agent.runAgent({}), 'the answer', 60_000)
  t.equal(lastText(agent), ANSWER)
  t.ok(countCuts(proxy) >= 3)

  const aborted = open(context.nodes[0].urls['ag-ui']).agent
  await withTimeout(aborted.runAgent({}, { onTextMessageContentEvent: () => { aborted.abortRun() } }), 'the end of the aborted answer')
  t.not(lastText(aborted), ANSWER)

  const stopped = open(context.nodes[0].urls['ag-ui'], 'Stop AG-UI!')
  let code: unknown
  await withTimeout(stopped.agent.runAgent({}, {
    onTextMessageContentEvent: () => stopped.stop(),
    onRunErrorEvent: ({ event }: { event: { code: string } }) => { code = event.code }
  }).catch(() => {}), 'the end of the stopped answer')
  t.equal(code, 'stopped')
  await waitForStop(context, 'Stop AG-UI!')
}

const checkTanStack: Check = async (t, context) => {
  interface Message { readonly role: string, readonly parts: ReadonlyArray<{ readonly type: string, readonly content?: string }> }
  interface Chat {
    sendMessage (text: string): Promise<unknown>
    getMessages (): Message[]
    getStatus (): string
    getError (): Error | undefined
  }
  interface Opened { readonly chat: Chat, stop (): Promise<Response> }
  const { openChat } = await context.importClient<{ openChat: (threadId: string, url: string, persistence: object) => Opened }>('tanstack', block('docs/ai/tanstack.md', 'client'))
  const createStorage = (): object => {
    const values = new Map<string, string>()
    return {
      getItem: (id: string) => values.has(id) ? JSON.parse(values.get(id) ?? '') as unknown : null,
      setItem: (id: string, value: unknown) => values.set(id, JSON.stringify(value)),
      removeItem: (id: string) => values.delete(id)
    }
  }
  const lastText = ({ chat }: Opened): string => {
    const last = chat.getMessages().at(-1)
    return last?.role === 'assistant' ? last.parts.map(({ content = '' }) => content).join('') : ''
  }
  const proxy = await startCuttingProxy(t, context.nodes, 'tanstack', 3)
  const storage = createStorage()
  const first = openChat('thread', `${proxy.url}/chat`, storage)
  const sent = first.chat.sendMessage(QUESTION)
  await waitUntil(() => lastText(first).includes('5 '), 'the start of the answer')
  // The page is loaded again, on another node if there is one: the client calls `joinRun`.
  const second = openChat('thread', `${otherUrl(context, 'tanstack')}/chat`, storage)
  await withTimeout(sent, 'the answer', 60_000)
  t.equal(lastText(first), ANSWER)
  t.equal(first.chat.getError(), undefined)
  t.ok(countCuts(proxy) >= 3)
  await waitUntil(() => lastText(second) === ANSWER && second.chat.getStatus() === 'ready', 'the answer after the reload')
  t.equal(second.chat.getMessages().length, 2)

  const third = openChat('other', `${context.nodes[0].urls.tanstack}/chat`, createStorage())
  const asked = third.chat.sendMessage('Stop TanStack!')
  await waitUntil(() => lastText(third).includes('5 '), 'the start of the answer')
  t.equal((await third.stop()).status, 204)
  await withTimeout(asked, 'the end of the stopped answer')
  t.not(lastText(third), ANSWER)
  await waitForStop(context, 'Stop TanStack!')
}

const checkLangGraph: Check = async (t, context) => {
  interface Part { readonly id?: string, readonly event: string, readonly data: unknown }
  interface Thread {
    start (text: string): Promise<{ run_id: string, status: string }>
    ask (text: string, onRunCreated: (run: { run_id: string, thread_id: string }) => void): AsyncIterable<Part>
    join (id: string, lastEventId?: string): AsyncIterable<Part>
    status (id: string): Promise<{ status: string }>
    stop (id: string): Promise<void>
  }
  const { openThread } = await context.importClient<{ openThread: (apiUrl: string, thread: string) => Thread }>('langgraph', block('docs/ai/langgraph.md', 'client'))
  const read = async (parts: AsyncIterable<Part>, onPart = (_part: Part): void => {}): Promise<Part[]> => {
    const read: Part[] = []
    for await (const part of parts) {
      read.push(part)
      onPart(part)
    }
    return read
  }
  const textOf = (parts: Part[]): string => parts.map(({ event, data }) => event === 'messages' ? (data as [{ content: string }])[0].content : '').join('')
  const proxy = await startCuttingProxy(t, context.nodes, 'langgraph', 3)
  const thread = openThread(proxy.url, 'thread')
  const { run_id: id, status } = await thread.start(QUESTION)
  t.equal(status, 'running')
  const parts = await withTimeout(read(thread.join(id)), 'the answer', 60_000)
  t.equal(textOf(parts), ANSWER)
  t.strictSame([...new Set(parts.map(({ event }) => event))], ['metadata', 'messages', 'end'])
  t.equal(new Set(parts.map(({ id }) => id)).size, parts.length, 'each part has an id')
  t.ok(countCuts(proxy) >= 3)
  t.match(await thread.status(id), { status: 'success' })

  const other = openThread(otherUrl(context, 'langgraph'), 'thread')
  const lastParts = await withTimeout(read(other.join(id, parts.at(-11)?.id)), 'the last parts')
  t.strictSame(lastParts, parts.slice(-10))
  t.strictSame(await withTimeout(read(other.join(id, parts.at(-1)?.id)), 'the end of an answer that was received'), [])

  let created = ''
  const stopped = await withTimeout(read(openThread(context.nodes[0].urls.langgraph, 'thread').ask('Stop LangGraph!', ({ run_id: id }) => { created = id }), ({ event }) => {
    if (event === 'messages') other.stop(created).catch(error => t.fail(String(error)))
  }), 'the end of the stopped answer')
  t.equal(stopped.at(-1)?.event, 'end')
  t.not(textOf(stopped), ANSWER)
  t.match(await other.status(created), { status: 'interrupted' })
  await waitForStop(context, 'Stop LangGraph!')
}

const checkA2a: Check = async (t, context) => {
  interface Event { readonly payload: { readonly $case: string, readonly value: { id: string, status?: { state: number }, artifact?: { parts: Array<{ content: { value: string } }> } } } }
  interface Connection {
    send (text: string): AsyncIterable<Event>
    subscribe (id: string): AsyncIterable<Event>
  }
  const { connect } = await context.importClient<{ connect: (url: string) => Promise<Connection> }>('a2a', block('docs/ai/a2a.md', 'client'))
  const read = async (events: AsyncIterable<Event>, onTask = (_id: string): void => {}): Promise<{ text: string, cases: string[], state: number | undefined }> => {
    let text = ''
    let state: number | undefined
    const cases: string[] = []
    for await (const { payload: { $case, value } } of events) {
      cases.push($case)
      if ($case === 'task') onTask(value.id)
      text += value.artifact?.parts[0]?.content.value ?? ''
      state = value.status?.state ?? state
    }
    return { text, cases: [...new Set(cases)], state }
  }
  const complete = { text: ANSWER, cases: ['task', 'artifactUpdate', 'statusUpdate'], state: 3 }
  const proxies = await Promise.all([startCuttingProxy(t, context.nodes, 'a2a', 3), startCuttingProxy(t, [...context.nodes].reverse(), 'a2a', 3)])
  const clients = await Promise.all(proxies.map(({ url }) => connect(url))) as [Connection, Connection]
  let subscribed: ReturnType<typeof read> | undefined
  const sent = read(clients[0].send(QUESTION), id => { subscribed = read(clients[1].subscribe(id)) })
  t.strictSame(await withTimeout(sent, 'the task', 60_000), complete)
  t.strictSame(await withTimeout(subscribed as ReturnType<typeof read>, 'the task of the other client', 60_000), complete)
  t.ok(proxies.every(proxy => countCuts(proxy) >= 3))
  await t.rejects(read(clients[1].subscribe('unknown')), /no such task/)
}

interface Chat {
  ask (message: object): Promise<ReadableStream<UIMessageChunk>>
  resume (): Promise<ReadableStream<UIMessageChunk> | null>
  stop (): Promise<Response>
}

const createQuestion = (text: string): object => ({ id: 'q', role: 'user', parts: [{ type: 'text', text }] })

/** Reads an answer to its end. `text` returns what has arrived so far; `ended` resolves with the error, or `undefined`. */
function read (stream: ReadableStream<UIMessageChunk> | null): { text: () => string, ended: Promise<unknown> } {
  if (stream === null) throw new Error('there is no answer')
  let message: UIMessage | undefined
  const text = (): string => (message?.parts ?? []).map(part => part.type === 'text' ? part.text : '').join('')
  const iterate = async (): Promise<unknown> => {
    let error: unknown
    for await (message of readUIMessageStream({ stream, onError: thrown => { error ??= thrown } })) ;
    return error
  }
  return { text, ended: withTimeout(iterate(), 'the end of an answer') }
}

const checkAiSdk: Check = async (t, context) => {
  const { openChat } = await context.importClient<{ openChat: (chatId: string, api: string) => Chat }>('ai-sdk', block('docs/ai/ai-sdk.md', 'client'))
  const open = (id: string, url: string): Chat => openChat(id, `${url}/api/chat`)
  const url = context.nodes[0].urls['ai-sdk']
  const proxy = await startCuttingProxy(t, context.nodes, 'ai-sdk', 3)
  const chat = open('1', proxy.url)
  t.equal(await chat.resume(), null)
  const first = read(await chat.ask(createQuestion(QUESTION)))
  await waitUntil(() => first.text().includes('5 '), 'the start of the answer')
  // After a reload, and in a second tab, on another node if there is one.
  for (const tab of [read(await chat.resume()), read(await open('1', otherUrl(context, 'ai-sdk')).resume()), first]) {
    t.equal(await tab.ended, undefined)
    t.equal(tab.text(), ANSWER)
  }
  t.ok(countCuts(proxy) >= 3)
  t.equal(await chat.resume(), null, 'the answer has ended')

  // Another tab, on another node if there is one, stops the answer.
  const other = open('2', otherUrl(context, 'ai-sdk'))
  const asked = read(await open('2', url).ask(createQuestion('Stop the AI SDK!')))
  const resumed = read(await other.resume())
  await waitUntil(() => resumed.text().includes('5 '), 'the start of the answer')
  t.equal((await other.stop()).status, 204)
  t.strictSame(await Promise.all([asked.ended, resumed.ended]), [undefined, undefined], 'a stopped answer is not an error')
  await waitForStop(context, 'Stop the AI SDK!')
  t.equal(asked.text(), resumed.text())
  t.not(asked.text(), ANSWER)
  t.equal(await other.resume(), null)
}

const checkLostAnswer: Check = async (t, context) => {
  const { openChat } = await context.importClient<{ openChat: (chatId: string, api: string) => Chat }>('ai-sdk', block('docs/ai/ai-sdk.md', 'client'))
  const proxy = await startFaultProxy(t, context.nodes.map(({ urls }) => portOf(urls['ai-sdk'])))
  const asked = read(await openChat('3', `${proxy.url}/api/chat`).ask(createQuestion(QUESTION)))
  const other = openChat('3', `${otherUrl(context, 'ai-sdk')}/api/chat`)
  const resumed = read(await other.resume())
  await waitUntil(() => resumed.text().includes('5 '), 'the start of the answer')
  await context.nodes[0].process.kill()
  for (const { ended } of [asked, resumed]) t.match(await ended, { message: 'The answer has failed' })
  t.not(resumed.text(), ANSWER)
  t.equal(await other.resume(), null)
}

const checkEventSources: Check = async (t, context) => {
  const last = 40
  const numbers = Array.from({ length: last }, (_, n) => n + 1)
  const response = await fetch(`${context.nodes[0].urls.runs}/counts/1`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ last }) })
  await response.body?.cancel()
  const proxies = await Promise.all([0, 1].map(() => startCuttingProxy(t, context.nodes, 'runs', 3, { afterBytes: 500, range: 300 }))) as [FaultProxy, FaultProxy]
  const page = await createPage(t, proxies[0].url, '<!doctype html><link rel="icon" href="data:,">')
  await page.goto(`${proxies[0].url}/`)
  await page.evaluate(`
    window.received = []
    window.source = new EventSource('/counts/1')
    source.onmessage = ({ data }) => received.push(JSON.parse(data).n)
  `)
  const source = eventSources[1]?.[1](t, `${proxies[1].url}/counts/1`)
  const received: number[] = []
  let cursor = ''
  source?.addEventListener('message', ({ data, lastEventId }) => {
    received.push((JSON.parse(String(data)) as { n: number }).n)
    if (received.length === 10) cursor = String(lastEventId)
  })
  await waitUntil(() => cursor !== '', 'ten events')
  const curl = async (...args: string[]): Promise<number[]> => {
    const { stdout } = await promisify(execFile)('curl', ['--silent', '--show-error', '--no-buffer', '--max-time', '60', ...args, `${otherUrl(context, 'runs')}/counts/1`])
    return [...stdout.matchAll(/^data: {"n":(\d+)}$/gm)].map(([, n]) => Number(n))
  }
  t.strictSame(await Promise.all([curl(), curl('--header', `Last-Event-ID: ${cursor}`)]), [numbers, numbers.slice(10)])
  // The response to the reconnect after the end is 204.
  await waitUntil(() => source?.readyState === 2, 'the EventSource to stop')
  await page.waitForFunction('source.readyState === 2')
  t.strictSame(received, numbers)
  t.strictSame(await page.evaluate('received'), numbers)
  t.ok(proxies.every(proxy => countCuts(proxy) >= 3))
}

const CHECKS: Record<string, Check> = {
  'with the AI SDK, an answer survives three lost connections, appears in two tabs, and is stopped from another tab': checkAiSdk,
  'the client of OpenAI receives the complete answer over four lost connections, and can abort it': checkOpenAi,
  'the client of AG-UI receives the complete answer over three lost connections, and can abort and stop it': checkAgUi,
  'the client of TanStack AI receives the complete answer over three lost connections, and after a reload': checkTanStack,
  'the client of LangGraph joins a run over three lost connections, with event names, ids and the status': checkLangGraph,
  'clients of A2A receive a task over three lost connections, by sending a message and by subscribing': checkA2a
}

async function runChecks (t: Test, redisUrl?: string): Promise<void> {
  const save = createFolder(t)
  const nodes = await Promise.all([startNode(t, save, redisUrl), ...redisUrl === undefined ? [] : [startNode(t, save, redisUrl)]]) as [Node, ...Node[]]
  const context: Context = { nodes, importClient: async <T>(page: Page, code: string) => await import(save(`${page}-client.js`, code)) as T }
  // Most of the time, the clients wait before they reconnect.
  t.jobs = Object.keys(CHECKS).length
  await Promise.all(Object.entries(CHECKS).map(([title, check]) => t.test(title, { buffered: true }, t => check(t, context))))
  if (redisUrl === undefined) return
  // On one node, the tests of runs do this.
  await t.test('eventsource, the EventSource of Chromium and curl read a run from the beginning and from a cursor', needsChromium, t => checkEventSources(t, context))
  await t.test('with the AI SDK, an answer whose process is killed ends with an error on the other node', t => checkLostAnswer(t, context))
}

t.test('on one node', t => runChecks(t))

t.test('on two nodes', needsRedis, async t => { await runChecks(t, `redis://127.0.0.1:${(await startRedis(t)).port}`) })
