import { existsSync, readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { matchList } from '../support/match-list.js'
import { blocksOf, pages, root, type Block } from './docs.js'
import { isTyped, typeCheck } from './docs-types.js'

const blocks = pages.flatMap(blocksOf)
const placeOf = ({ page, line, language, name }: Block): string => `${page}:${line} (${language}${name === undefined ? '' : `, name=${name}`})`
const manifest = JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as Record<'scripts' | 'devDependencies', Record<string, string>>

/** Checks a command without running it. Returns what is wrong, or `undefined`. */
function checkCommand (line: string): string | undefined {
  const [command = '', verb = '', ...rest] = line.split(/\s+#/)[0]?.trim().split(/\s+/) ?? []
  const words = rest.filter(word => !word.startsWith('-'))
  if (command === 'npm' && verb === 'ci') return words.length === 0 ? undefined : 'npm ci takes no packages'
  if (command === 'npm' && ['start', 'test'].includes(verb)) return verb in manifest.scripts ? undefined : `there is no script "${verb}"`
  if (command === 'npm' && verb === 'run') return (words[0] ?? '') in manifest.scripts ? undefined : `there is no script "${words[0] ?? ''}"`
  if (command === 'npm' && verb === 'install') {
    // The tests use these packages, in the major version that the command names, if any.
    const isTested = (word: string): boolean => {
      const [, name = '', major] = /^(.[^@]*)(?:@(\d+))?$/.exec(word) ?? []
      const version = manifest.devDependencies[name]
      return name === 'fastify-sse-sessions' || (version !== undefined && (major === undefined || version.startsWith(`${major}.`)))
    }
    const unknown = words.find(word => !isTested(word))
    return unknown === undefined ? undefined : `no test uses the package "${unknown}"`
  }
  if (command === 'npx' && ['tap', 'eslint', 'tsc'].includes(verb)) {
    const missing = words.find(path => !existsSync(root + path))
    return missing === undefined ? undefined : `there is no file ${missing}`
  }
  return `there is no check for the command "${line.trim()}"; name the block, and run it in a test`
}

// The checks of blocks without a name, by language. Each returns what is wrong, or `undefined`.
const CHECKS: Record<string, (code: string) => string | undefined> = {
  json: code => {
    try {
      JSON.parse(code)
      return undefined
    } catch (error) {
      return String(error)
    }
  },
  sh: code => code.trim().split('\n')
    .flatMap(line => line.split('&&'))
    .map(line => checkCommand(line))
    .find(problem => problem !== undefined)
}

for (const page of pages) {
  t.test(`${page}: every code block is checked by its language, or has a name by which a test runs it`, async t => {
    for (const block of blocksOf(page)) {
      if (block.name !== undefined || isTyped(block)) continue
      const check = CHECKS[block.language]
      if (check === undefined) t.fail(`${placeOf(block)} needs a name, and a test that runs it`)
      else t.equal(check(block.code), undefined, placeOf(block))
    }
  })
}

t.test('the name of every block is unique on its page, and every named block is used by a test', async t => {
  const files = readdirSync(`${root}test`, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.test.ts'))
  const calls = files.flatMap(name => [...readFileSync(`${root}test/${name}`, 'utf8').matchAll(/\bblock\('([^']+)', '([^']+)'\)/g)])
  const used = new Set(calls.map(([, page = '', name = '']) => `${page} ${name}`))
  const named = blocks.filter(({ name }) => name !== undefined)
  t.strictSame(named.filter(({ page, name = '' }) => !used.has(`${page} ${name}`)).map(placeOf), [], 'unused')
  const names = named.map(({ page, name = '' }) => `${page} ${name}`)
  t.strictSame(names.filter((name, index) => names.indexOf(name) !== index), [], 'not unique')
})

t.test('TypeScript, and JavaScript that no test runs, compiles in strict mode', async t => {
  const errors = typeCheck(blocks.filter(block => isTyped(block) && (block.name === undefined || block.language.startsWith('t'))))
  for (const page of pages) t.strictSame(errors.filter(error => error.startsWith(`${page}:`)), [], page)
  t.strictSame(errors.filter(error => !pages.some(page => error.startsWith(`${page}:`))), [], 'outside of the pages')
})

t.test('an error in a block is reported with its page and line', async t => {
  const block = { page: 'docs/page.md', language: 'js', name: undefined, isClient: false }
  const errors = typeCheck([
    { ...block, line: 10, code: '\nawait session.emit(1)' },
    { ...block, line: 20, code: 'sessions.dispatcher' },
    { ...block, line: 30, code: "app.sseSessions.addHook('onOpen', async (session, request) => { await session.join(request.id) })" },
    { ...block, line: 40, isClient: true, code: "const { said } = await session.request('say') as { said: string }\nconsole.log(said)" }
  ])
  matchList(t, errors, [/^docs\/page\.md:11: Expected 2-3 arguments/, /^docs\/page\.md:20: .*'dispatcher' does not exist/])
  t.equal(errors.length, 2)
})
