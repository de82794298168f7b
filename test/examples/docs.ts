import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** The top folder of the repository, with a slash at the end. */
export const root = fileURLToPath(new URL('../..', import.meta.url))

/** A fenced code block of a page. */
export interface Block {
  /** Path of the page from the top of the repository, such as `docs/server.md`. */
  readonly page: string
  /** Line of the page on which the code starts, from 1. */
  readonly line: number
  /** The first word after the fence; empty if there is none. */
  readonly language: string
  /** The word after `name=`; a test runs the block under this name. */
  readonly name: string | undefined
  /** Whether the word `client` follows the language: the code runs in a client, so `session` is a client's session. */
  readonly isClient: boolean
  readonly code: string
}

/** Pages whose code blocks are tested, by their paths from the top of the repository. README.md still has a test of its own. */
export const pages: readonly string[] = ['CONTRIBUTING.md', ...markdownIn('docs')].filter(page => existsSync(root + page))

/** Pages whose links are tested. */
export const linkedPages: readonly string[] = ['README.md', ...pages, 'CHANGELOG.md', 'SECURITY.md', 'bench/README.md'].filter(page => existsSync(root + page))

function markdownIn (folder: string): string[] {
  if (!existsSync(root + folder)) return []
  return readdirSync(root + folder, { withFileTypes: true }).flatMap(entry => {
    const path = `${folder}/${entry.name}`
    if (entry.isDirectory()) return entry.name.startsWith('.') ? [] : markdownIn(path)
    return entry.name.endsWith('.md') ? [path] : []
  }).sort()
}

const texts = new Map<string, string>()

/** The text of a page. */
export function read (page: string): string {
  let text = texts.get(page)
  if (text === undefined) texts.set(page, text = readFileSync(root + page, 'utf8'))
  return text
}

const FENCED = /^([ \t]*)(```+|~~~+)([^\n]*)\n(.*?)^\1\2[ \t]*$/gms

/** The code blocks of a page, in order. */
export function blocksOf (page: string): Block[] {
  const text = read(page)
  return [...text.matchAll(FENCED)].map(({ index, 1: indent = '', 3: info = '', 4: code = '' }) => {
    const [language = '', ...words] = info.trim().split(/\s+/)
    return {
      page,
      line: text.slice(0, index).split('\n').length + 1,
      language,
      name: words.find(word => word.startsWith('name='))?.slice('name='.length),
      isClient: words.includes('client'),
      code: code.replaceAll(new RegExp(`^${indent}`, 'gm'), '')
    }
  })
}

/**
 * The code of a named block: one whose fence says, for example, `js name=quick-start`. A test that runs or checks a block
 * gets it by this function with two literal strings, by which `docs-blocks.test.ts` finds out which blocks are tested.
 */
export function block (page: string, name: string): string {
  const found = blocksOf(page).filter(block => block.name === name)
  const [only] = found
  if (only === undefined || found.length > 1) throw new Error(`${page} has ${found.length} code blocks with "name=${name}"; it must have one`)
  return only.code
}

/** A page without its code blocks. */
export function proseOf (page: string): string {
  return read(page).replaceAll(FENCED, '')
}

export interface Heading {
  readonly level: number
  readonly text: string
  /** The anchor that GitHub gives the heading. */
  readonly anchor: string
}

/** The headings of a page, in order. */
export function headingsOf (page: string): Heading[] {
  const counts = new Map<string, number>()
  return [...proseOf(page).matchAll(/^(#{1,6}) +(.+?) *$/gm)].map(([, marks = '', text = '']) => {
    const slug = slugOf(text)
    const count = counts.get(slug) ?? 0
    counts.set(slug, count + 1)
    return { level: marks.length, text, anchor: count === 0 ? slug : `${slug}-${count}` }
  })
}

/** The anchor of a heading before it is made unique, as GitHub derives it; the site uses the same rule. */
function slugOf (heading: string): string {
  const plain = heading.replaceAll(/!?\[([^\]]*)\]\([^)]*\)/g, '$1').replaceAll(/[`*]/g, '')
  return plain.toLowerCase().replaceAll(/[^\p{L}\p{N}\p{M}_\- ]/gu, '').replaceAll(' ', '-')
}

/**
 * The rows of a table, each as its cells: the first table under a heading of a page (at any level, subsections included)
 * whose first column has this title. Throws if there is none.
 */
export function table (page: string, chapter: string, title: string): string[][] {
  const lines = read(page).split('\n')
  const start = lines.findIndex(line => /^#+ /.test(line) && line.replace(/^#+ +/, '') === chapter)
  if (start === -1) throw new Error(`${page} has no heading "${chapter}"`)
  const level = (lines[start] ?? '').indexOf(' ')
  const end = lines.findIndex((line, index) => index > start && /^#+ /.test(line) && line.indexOf(' ') <= level)
  const chapterLines = lines.slice(start + 1, end === -1 ? undefined : end)
  const head = chapterLines.findIndex(line => line.startsWith(`| ${title} |`))
  if (head === -1) throw new Error(`${page} has no table with the first column "${title}" under "${chapter}"`)
  const rows = chapterLines.slice(head + 2)
  const after = rows.findIndex(line => !line.startsWith('|'))
  return rows.slice(0, after === -1 ? undefined : after).map(row => row.slice(2, -2).split(' | '))
}

/** The text of the first cell of a row without its code marks. */
export const nameOf = ([cell = '']: string[]): string => cell.replaceAll('`', '')
