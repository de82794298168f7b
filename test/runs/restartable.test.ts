import t from 'tap'
import { memoryStore, type RestartableProducer, type RunState, type StoreFactory } from '../../lib/index.js'
import { waitUntil } from '../support/wait.js'
import { createFeed } from './support/feed.js'
import { dataOf, follow } from './support/run-client.js'
import { serveRuns } from './support/serve-runs.js'

t.test('in a single process, a restartable producer runs once, with its input as JSON', async t => {
  const inputs: unknown[] = []
  const input = { text: 'all is well', at: new Date(0) }
  const { url } = await serveRuns(t, {
    serve: {
      afterRegister: async app => {
        const { runs } = app.sseSessions
        const words = runs.restartable('words', function * (input: { text: string, at: Date }, { events, signal }) {
          inputs.push(input)
          yield * input.text.split(' ').slice(events.length)
          yield signal.aborted
        })
        app.post('/words', { resumable: true }, (_request, reply) => reply.events(words(input)))
        await runs.start('a', {}, words(input))
      }
    }
  })
  for (const response of [await follow(t, `${url}/run`), await follow(t, `${url}/words`, { method: 'POST' })]) {
    t.equal(await response.isComplete, true)
    t.strictSame(dataOf(response), ['"all"', '"is"', '"well"', 'false'])
  }
  t.strictSame(inputs, [{ text: 'all is well', at: '1970-01-01T00:00:00.000Z' }, { text: 'all is well', at: '1970-01-01T00:00:00.000Z' }])
})

t.test('a restartable producer that throws fails its run, and one whose server closes loses it', async t => {
  const { app, runs } = await serveRuns(t, { plugin: { closeTimeout: 50 } })
  const failing = await runs.start('failing', {}, runs.restartable('fail', () => { throw new Error('it failed') })(null))
  await waitUntil(() => failing.status === 'failed', 'the failure')
  const waiting = await runs.start('waiting', {}, runs.restartable('wait', (_input, context) => createFeed().producer(context))(null))
  await app.close()
  t.match(waiting, { status: 'lost', reason: 'shutdown' })
})

t.test('a store that cannot release a run does not make close() fail, nor a restart', async t => {
  let restart: (run: RunState) => void = () => {}
  let find: () => RunState | undefined = () => undefined
  const store: StoreFactory = (settings, callbacks) => {
    const memory = memoryStore(settings, callbacks)
    find = () => memory.runs.find('a', undefined)
    Object.assign(memory.runs, {
      handleRestarts: (_producers: ReadonlySet<string>, onRestart: (run: RunState) => void) => { restart = onRestart },
      follow: () => { throw new Error('no log') },
      release: () => Promise.reject(new Error('no store'))
    })
    return memory
  }
  const { app, runs, logged } = await serveRuns(t, { plugin: { store, closeTimeout: 50 } })
  const countErrors = (): number => logged().filter(({ msg, err }) => msg === 'a run could not be released' && err?.message === 'no store').length
  await runs.start('a', {}, runs.restartable('work', (_input, context) => createFeed().producer(context))(null))
  restart(find() as RunState)
  await waitUntil(() => countErrors() === 1, 'the failure of the restart')
  await app.close()
  t.equal(countErrors(), 3, 'one more for each producer')
})

t.test('mistakes with restartable producers are refused', async t => {
  const { runs } = await serveRuns(t)
  const producer: RestartableProducer<unknown> = () => []
  const work = runs.restartable('work', producer)
  for (const name of ['', '\ud800', 1]) t.throws(() => { runs.restartable(name as string, producer) }, { code: 'FST_SSE_RUN_INVALID' })
  t.throws(() => { runs.restartable('other', 'work' as unknown as typeof producer) }, { code: 'FST_SSE_RUN_INVALID' })
  t.throws(() => { runs.restartable('work', producer) }, { code: 'FST_SSE_RUN_INVALID', message: 'The producer "work" is already registered; choose another name' })
  t.throws(() => { work(1n) }, { code: 'FST_SSE_DATA_INVALID' })
  await t.rejects(runs.start('a', { encode: String }, work(null)), { code: 'FST_SSE_RUN_INVALID', message: /"encode"/ })
})
