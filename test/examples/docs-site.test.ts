import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import t from 'tap'
import { pages, root } from './docs.js'
import { runToEnd } from './docs-run.js'

t.test('the site has every page, and all of its links resolve', async t => {
  mkdirSync(`${root}.ci-output`, { recursive: true })
  const folder = mkdtempSync(`${root}.ci-output/site-`)
  t.teardown(() => { rmSync(folder, { recursive: true }) })
  await runToEnd(t, 'node_modules/vitepress/bin/vitepress.js', {}, ['build', 'docs', '--outDir', folder], 150_000)
  for (const page of pages.filter(page => page !== 'README.md')) t.ok(existsSync(`${folder}/${page.replace(/\.md$/, '.html')}`), page)
  const home = readFileSync(`${folder}/index.html`, 'utf8')
  // The sidebar links to every page.
  const links = new Set([...home.matchAll(/ href="\/([^"#]+)\.html"/g)].map(([, path = '']) => `${path}.md`))
  t.strictSame(pages.filter(page => page !== 'README.md' && !links.has(page)), [])
})
