import { existsSync } from 'node:fs'
import { posix } from 'node:path'
import type { DefaultTheme, UserConfig } from 'vitepress'

const page = (text: string, path: string): DefaultTheme.SidebarItem => ({ text, link: `/${path}` })

/** The anchor of a heading as GitHub derives it, so that links work on both. */
const slugify = (heading: string): string => heading.toLowerCase().replaceAll(/[^\p{L}\p{N}\p{M}_\- ]/gu, '').replaceAll(' ', '-')

const config: UserConfig<DefaultTheme.Config> = {
  title: 'fastify-sse-sessions',
  description: 'Two-way sessions over plain HTTP for Fastify',
  head: [['link', { rel: 'icon', href: 'data:,' }]],
  // The pages keep their paths in the repository, so that their links work here and on GitHub.
  srcDir: '..',
  srcExclude: ['**/node_modules/**', '**/dist/**', '.*/**', 'example/**', 'lib/**', 'test/**'],
  rewrites: { 'README.md': 'index.md' },
  markdown: {
    anchor: { slugify },
    // Languages that Shiki does not highlight.
    languageAlias: { sse: 'http', haproxy: 'nginx', caddy: 'nginx' },
    config: markdown => {
      // Links to folders and to files that are no pages lead to nothing on the site: their text stays.
      markdown.core.ruler.push('links', ({ tokens, env }) => {
        const folder = posix.dirname(String((env as { realPath?: string, path: string }).realPath ?? env.path))
        for (const { children } of tokens) {
          children?.forEach((token, index) => {
            const target = token.attrGet('href') ?? ''
            if (token.type !== 'link_open' || /^([a-z]+:|#)/.test(target)) return
            const path = posix.join(folder, target.split('#')[0] ?? '')
            if (path.endsWith('README.md') && !path.includes('bench/')) token.attrSet('href', target.replace('README.md', 'index.md'))
            else if (!path.endsWith('.md') && existsSync(path)) hideLink(children, index)
          })
        }
      })
    }
  },
  vite: { publicDir: false, server: { host: '127.0.0.1' } },
  themeConfig: {
    outline: [2, 3],
    search: { provider: 'local' },
    sidebar: [
      {
        text: 'Learn',
        items: [
          page('Overview', ''),
          page('Getting started', 'docs/getting-started'),
          page('On the server', 'docs/server'),
          page('In the client', 'docs/client'),
          page('React', 'docs/react')
        ]
      },
      {
        text: 'Run',
        items: [
          page('Authentication', 'docs/authentication'),
          page('Reliability', 'docs/reliability'),
          page('Scaling', 'docs/scaling'),
          page('Deployment', 'docs/deployment'),
          page('Testing', 'docs/testing'),
          page('Troubleshooting', 'docs/troubleshooting'),
          page('Migrating', 'docs/migrating'),
          page('Security', 'SECURITY')
        ]
      },
      {
        text: 'Look up',
        items: [
          page('Options', 'docs/reference/options'),
          page('API', 'docs/reference/api'),
          page('Errors', 'docs/reference/errors'),
          page('Protocol', 'docs/protocol'),
          page('Architecture', 'docs/architecture')
        ]
      },
      {
        text: 'Project',
        items: [
          page('Changelog', 'CHANGELOG'),
          page('Contributing', 'CONTRIBUTING'),
          page('Benchmarks', 'bench/README')
        ]
      }
    ]
  }
}

function hideLink (children: Array<{ type: string, tag: string, attrs: unknown }>, open: number): void {
  const close = children.findIndex(({ type }, index) => index > open && type === 'link_close')
  for (const token of [children[open], children[close]]) {
    if (token === undefined) continue
    token.tag = 'span'
    token.type = token === children[open] ? 'span_open' : 'span_close'
    token.attrs = null
  }
}

export default config
