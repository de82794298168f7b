import t from 'tap'
import ts from 'typescript'
import { connect } from '../../lib/client/node.js'
import { runScript } from '../support/child-process.js'
import { deferred, withTimeout } from '../support/wait.js'
import { block } from './docs.js'
import { createFolder } from './docs-run.js'

// As the NestJS command line compiles an app: to CommonJS, with the types of constructor parameters.
const { outputText } = ts.transpileModule(block('docs/nestjs.md', 'app'), {
  compilerOptions: { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2023, esModuleInterop: true, experimentalDecorators: true, emitDecoratorMetadata: true }
})

t.test('a NestJS app, compiled to CommonJS, handles messages, emits events, and exits when it receives a signal', async t => {
  const app = runScript(t, createFolder(t)('app.cjs', outputText), { PORT: '0' })
  const [url] = await app.waitForOutput(/http:\/\/\S+/, 60_000)
  const session = connect(url)
  t.teardown(() => session.close())
  const said = deferred<unknown>()
  session.on('said', said.resolve)
  t.strictSame(await withTimeout(session.request('say', { name: ' ann ', text: 'hello' }), 'the response'), { said: true })
  t.strictSame(await withTimeout(said.promise, 'the event'), { name: 'ANN', text: 'hello' })
  await app.kill('SIGTERM')
})
