import { existsSync } from 'node:fs'
import { posix } from 'node:path'
import t from 'tap'
import { headingsOf, linkedPages, proseOf, root } from './docs.js'

/** The targets of the links and images of a page. */
function linksOf (page: string): string[] {
  // Inline code is no link, but the text of a link may contain code.
  const prose = proseOf(page).replaceAll(/(`+)(?!`).*?[^`]\1(?!`)/g, 'code')
  return [
    ...prose.matchAll(/\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)/g),
    ...prose.matchAll(/^\[[^\]]+\]:\s+(\S+)/gm),
    ...prose.matchAll(/<[a-z]+\s[^>]*?\b(?:href|src|srcset)="([^"]+)"/g)
  ].map(([, target = '']) => target)
}

const anchors = new Map<string, Set<string>>()

function anchorsOf (page: string): Set<string> {
  let found = anchors.get(page)
  if (found === undefined) {
    const explicit = [...proseOf(page).matchAll(/\s(?:id|name)="([^"]+)"/g)].map(([, id = '']) => id)
    anchors.set(page, found = new Set([...headingsOf(page).map(({ anchor }) => anchor), ...explicit]))
  }
  return found
}

/** What is wrong with a link of a page; `undefined` if it resolves. Other sites are not visited. */
function problemOf (page: string, target: string): string | undefined {
  if (/^[a-z]+:/.test(target)) {
    if (!URL.canParse(target)) return 'is no URL'
    return /^(https|mailto):/.test(target) ? undefined : 'is neither https nor mailto'
  }
  if (target.startsWith('/')) return 'is absolute; make it relative to the page'
  const [path = '', anchor] = target.split('#')
  const file = path === '' ? page : posix.join(posix.dirname(page), path)
  if (file.startsWith('..') || !existsSync(root + file)) return `points to ${file}, which does not exist`
  if (anchor === undefined) return undefined
  if (!file.endsWith('.md')) return 'has an anchor, but is no page'
  return anchorsOf(file).has(anchor) ? undefined : `${file} has no heading for the anchor "${anchor}"`
}

t.test('every link and anchor of the documentation resolves', async t => {
  for (const page of linkedPages) {
    const problems = linksOf(page).flatMap(target => {
      const problem = problemOf(page, target)
      return problem === undefined ? [] : [`${target}: ${problem}`]
    })
    t.strictSame(problems, [], page)
  }
})

t.test('a link, an image and an anchor that do not resolve are reported', async t => {
  t.match(problemOf('README.md', 'docs/no-such-page.md'), /does not exist/)
  t.match(problemOf('README.md', '#no-such-heading'), /no heading/)
  t.match(problemOf('README.md', '../outside'), /does not exist/)
  t.match(problemOf('README.md', 'https://'), /no URL/)
  t.match(problemOf('README.md', 'http://example.com'), /neither/)
  t.equal(problemOf('README.md', 'https://example.com/a#b'), undefined)
  t.equal(problemOf('README.md', 'package.json'), undefined)
})
