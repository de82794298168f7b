import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { posix } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { nameOf, proseOf, root, table } from './docs.js'

const PAGE = 'docs/architecture.md'

/** The modules of each row of the page's table, from the top: folders end with a slash. */
const layers = table(PAGE, 'Modules', 'module').map(([cell = '']) => [...cell.matchAll(/`([^`]+)`/g)].map(([, name = '']) => name))
const files = readdirSync(`${root}lib`, { recursive: true, encoding: 'utf8' }).map(name => name.replaceAll('\\', '/')).filter(name => name.endsWith('.ts'))

/** The row of a file, from 0 at the top; -1 if it is in none. */
function layerOf (file: string): number {
  return layers.findIndex(modules => modules.some(module => module.endsWith('/') ? file.startsWith(module) : file === module))
}

/** The files of the package that a file imports, also only types. */
function importsOf (file: string): string[] {
  const { importedFiles } = ts.preProcessFile(readFileSync(`${root}lib/${file}`, 'utf8'), true, true)
  return importedFiles
    .filter(({ fileName }) => fileName.startsWith('.'))
    .map(({ fileName }) => posix.join(posix.dirname(file), fileName).replace(/\.js$/, '.ts'))
}

t.test('the table of modules lists every module, and imports point downwards in it', t => {
  for (const module of layers.flat()) t.ok(existsSync(`${root}lib/${module}`), module)
  for (const file of files) {
    if (file.startsWith('client/')) {
      t.strictSame(importsOf(file).filter(name => !name.startsWith('client/') && name !== 'contract.ts'), [], file)
    } else {
      const layer = layerOf(file)
      t.ok(layer >= 0, `${file} is in the table`)
      t.strictSame(importsOf(file).filter(name => layerOf(name) < layer), [], file)
    }
  }
  t.end()
})

/** The public members of an exported interface or class, in the order of the source. */
function membersOf (file: string, name: string): string[] {
  const { statements } = ts.createSourceFile(file, readFileSync(`${root}lib/${file}`, 'utf8'), ts.ScriptTarget.ES2023, true)
  return statements
    .flatMap((statement): ts.NodeArray<ts.TypeElement | ts.ClassElement> | [] =>
      (ts.isInterfaceDeclaration(statement) || ts.isClassDeclaration(statement)) && statement.name?.text === name ? statement.members : [])
    .filter(({ name }) => name !== undefined && !ts.isPrivateIdentifier(name))
    .map(({ name }) => name?.getText() ?? '')
}

t.test('the tables of the store contract list every method, callback and member', t => {
  const documented = (title: string): string[] => table(PAGE, 'The store contract', title)
    .flatMap(([cell = '']) => [...cell.matchAll(/`(\w+)[^`]*`/g)].map(([, name = '']) => name))
  t.strictSame(documented('method of `Store`'), membersOf('store/store.ts', 'Store'))
  t.strictSame(documented('method of `RunStore`'), membersOf('store/run-store.ts', 'RunStore'))
  t.strictSame(documented('member of `RunState`').sort(), membersOf('store/run-state.ts', 'RunState').sort())
  t.strictSame(documented('member of `SessionListener`'), membersOf('store/session-state.ts', 'SessionListener'))
  t.strictSame(documented('member of `SessionState`').sort(), membersOf('store/session-state.ts', 'SessionState').sort())
  const ofLog = membersOf('log/log.ts', 'Log')
  t.strictSame(documented('member of `Log`').filter(name => !ofLog.includes(name)), [])
  const types = new Map(table(PAGE, 'Types', 'type').map(([name = '', members = '']) => [nameOf([name]), members]))
  for (const [file, name] of [
    ['log/log.ts', 'EntryInput'],
    ['store/message-queue.ts', 'QueuedMessage'],
    ['store/message-queue.ts', 'StoredResponse'],
    ['store/message-queue.ts', 'QueueResult'],
    ['store/store.ts', 'StoreCallbacks'],
    ['store/store.ts', 'StoreSettings']
  ] as const) {
    const members = membersOf(file, name)
    t.ok(members.length > 0, name)
    t.strictSame(members.filter(member => !new RegExp(`\`${member}\\b`).test(types.get(name) ?? '')), [], name)
  }
  t.end()
})

t.test('every file, class and type that the page names exists', t => {
  const sources = files.map(file => readFileSync(`${root}lib/${file}`, 'utf8')).join('\n')
  const codes = [...new Set([...proseOf(PAGE).matchAll(/`([^`\n]+)`/g)].map(([, code = '']) => code))]
  for (const code of codes) {
    if (/^[\w-]+\.ts$/.test(code)) t.ok(files.some(file => file === code || file.endsWith(`/${code}`)), code)
    else if (/^[A-Z][a-z]+([A-Z][a-z]+)+$/.test(code)) t.ok(new RegExp(`\\b${code}\\b`).test(sources) || code === 'EventSource', code)
  }
  t.end()
})
