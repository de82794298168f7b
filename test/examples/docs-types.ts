import ts from 'typescript'
import { root, type Block } from './docs.js'

const SERVER: Record<string, string> = {
  app: 'import("fastify").FastifyInstance',
  request: 'import("fastify").FastifyRequest',
  reply: 'import("fastify").FastifyReply',
  sessions: 'import("fastify-sse-sessions").Sessions',
  session: 'import("fastify-sse-sessions").Session',
  redis: 'import("ioredis").Redis'
}

const CLIENT: Record<string, string> = {
  session: 'import("fastify-sse-sessions/client").ClientSession',
  token: 'string'
}

const EXTENSIONS: Record<string, string> = { ts: 'ts', js: 'ts', tsx: 'tsx', jsx: 'tsx' }

/** Whether the language of a block can be type-checked. JavaScript is checked as TypeScript without annotations. */
export const isTyped = ({ language }: Block): boolean => language in EXTENSIONS

// The options of a new application. The blocks are checked against the published types, without internal ones.
const OPTIONS: ts.CompilerOptions = {
  strict: true,
  skipLibCheck: true,
  noEmit: true,
  module: ts.ModuleKind.NodeNext,
  moduleDetection: ts.ModuleDetectionKind.Force,
  target: ts.ScriptTarget.ES2023,
  lib: ['lib.es2024.d.ts', 'lib.dom.d.ts', 'lib.dom.iterable.d.ts'],
  jsx: ts.JsxEmit.ReactJSX,
  types: ['node']
}

// The parsed files of all programs, except blocks.
const declarations = new Map<string, ts.SourceFile | undefined>()

/**
 * Type-checks blocks in one program, each as a module of its own. A fragment may use the names of the prelude (see SERVER
 * and CLIENT above) without declaring them. Returns the errors, each with its page and line. Needs `npm run build`.
 */
export function typeCheck (blocks: readonly Block[]): string[] {
  const host = ts.createCompilerHost(OPTIONS)
  const files = new Map(blocks.map(block => {
    const name = `${root}.docs/${block.page.replaceAll(/\W/g, '-')}-${block.line}.${EXTENSIONS[block.language] ?? ''}`
    return [name, { block, text: block.code + preludeOf(block, name) }]
  }))
  const { fileExists, getSourceFile, readFile } = host
  host.fileExists = name => files.has(name) || fileExists(name)
  host.readFile = name => files.get(name)?.text ?? readFile(name)
  host.getSourceFile = (name, ...rest) => {
    if (files.has(name)) return getSourceFile(name, ...rest)
    if (!declarations.has(name)) declarations.set(name, getSourceFile(name, ...rest))
    return declarations.get(name)
  }
  const program = ts.createProgram([...files.keys()], OPTIONS, host)
  return ts.getPreEmitDiagnostics(program).map(({ file, start = 0, messageText }) => {
    const message = ts.flattenDiagnosticMessageText(messageText, '\n')
    const block = files.get(file?.fileName ?? '')?.block
    if (file === undefined || block === undefined) return `${file?.fileName ?? 'program'}: ${message}`
    return `${block.page}:${block.line + file.getLineAndCharacterOfPosition(start).line}: ${message}`
  })
}

/** Declarations of the names that a block uses and does not declare. They are ambient, so they may follow their use. */
function preludeOf ({ code, isClient }: Block, file: string): string {
  const source = ts.createSourceFile(file, code, ts.ScriptTarget.ES2023)
  const declared = new Set<string>()
  const used = new Set<string>()
  const declare = (name: ts.BindingName): void => {
    if (ts.isIdentifier(name)) declared.add(name.text)
    else for (const element of name.elements) if (ts.isBindingElement(element)) declare(element.name)
  }
  for (const statement of source.statements) {
    if (ts.isVariableStatement(statement)) for (const { name } of statement.declarationList.declarations) declare(name)
    if ((ts.isFunctionDeclaration(statement) || ts.isClassDeclaration(statement)) && statement.name !== undefined) declare(statement.name)
    if (ts.isImportDeclaration(statement)) {
      const { name, namedBindings } = statement.importClause ?? {}
      if (name !== undefined) declare(name)
      if (namedBindings !== undefined && ts.isNamespaceImport(namedBindings)) declare(namedBindings.name)
      if (namedBindings !== undefined && ts.isNamedImports(namedBindings)) for (const { name } of namedBindings.elements) declare(name)
    }
  }
  const visit = (node: ts.Node): void => {
    if (ts.isIdentifier(node)) used.add(node.text)
    ts.forEachChild(node, visit)
  }
  visit(source)
  const missing = Object.entries(isClient ? CLIENT : SERVER).filter(([name]) => used.has(name) && !declared.has(name))
  // The import declares `app.sseSessions`.
  return `\nimport 'fastify-sse-sessions'\n${missing.map(([name, type]) => `declare const ${name}: ${type}`).join('\n')}\n`
}
