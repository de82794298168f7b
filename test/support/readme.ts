import { readFileSync } from 'node:fs'

export interface Block {
  readonly language: string
  readonly code: string
  taken: boolean
}

export const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8')

/** The code blocks of the README, in order. */
export const blocks: readonly Block[] = [...readme.matchAll(/^```(\w+)\n(.*?)^```$/gms)]
  .map(([, language = '', code = '']) => ({ language, code, taken: false }))

/** The next block of a language that no test has taken yet. */
export function take (language: string): string {
  const block = blocks.find(block => block.language === language && !block.taken)
  if (block === undefined) throw new Error(`The README has no further block of ${language}`)
  block.taken = true
  return block.code
}

/** The rows of a chapter's table that has this first heading, each as its cells. */
export function table (chapter: string, heading: string): string[][] {
  const [, rows = ''] = new RegExp(`\\n## ${chapter}\\n.*?\\n\\| ${heading} \\|[^\\n]+\\n\\| ---[^\\n]+\\n((?:\\|[^\\n]+\\n)+)`, 's').exec(readme) ?? []
  return rows.split('\n').slice(0, -1).map(row => row.slice(2, -2).split(' | '))
}

/** What the cell at the beginning of a row has in code font. */
export const nameOf = ([cell = '']: string[]): string => cell.replaceAll('`', '')
