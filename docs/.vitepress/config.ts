import { existsSync } from 'node:fs'
import { posix } from 'node:path'
import type { DefaultTheme, UserConfig } from 'vitepress'

const page = (text: string, path: string): DefaultTheme.SidebarItem => ({ text, link: `/${path}` })

/** Returns the anchor that GitHub gives to a heading, so that a link works on GitHub and on this site. */
const slugify = (heading: string): string => heading.toLowerCase().replaceAll(/[^\p{L}\p{N}\p{M}_\- ]/gu, '').replaceAll(' ', '-')

const config: UserConfig<DefaultTheme.Config> = {
  title: 'fastify-sse-sessions',
  description: 'Two-way sessions over plain HTTP for Fastify',
  head: [['link', { rel: 'icon', href: 'data:,' }]],
  // With the whole repository as the source, pages keep their paths, so relative links work on GitHub and on this site.
  srcDir: '..',
  srcExclude: ['**/node_modules/**', '**/dist/**', '.*/**', 'example/**', 'lib/**', 'test/**'],
  rewrites: { 'README.md': 'index.md' },
  markdown: {
    anchor: { slugify },
    // Shiki does not support these languages.
    languageAlias: { sse: 'http', haproxy: 'nginx', caddy: 'nginx' },
    config: markdown => {
      // The site contains only pages. A link to a folder or another file would be broken, so only its text is shown.
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
          page('Choosing', 'docs/choosing'),
          page('Getting started', 'docs/getting-started'),
          page('On the server', 'docs/server'),
          page('In the client', 'docs/client'),
          page('React', 'docs/react'),
          page('Vue', 'docs/vue'),
          page('Svelte', 'docs/svelte'),
          page('Runs', 'docs/runs'),
          page('AI SDK', 'docs/ai/ai-sdk'),
          page('OpenAI client', 'docs/ai/openai'),
          page('AG-UI client', 'docs/ai/ag-ui'),
          page('TanStack AI client', 'docs/ai/tanstack'),
          page('LangGraph client', 'docs/ai/langgraph'),
          page('A2A client and server', 'docs/ai/a2a'),
          page('MCP servers', 'docs/mcp'),
          page('NestJS', 'docs/nestjs'),
          page('Two servers', 'docs/two-servers'),
          page('Migrating', 'docs/migrating')
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
          page('Conformance', 'docs/conformance'),
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

/** Replaces a link by a `span`, which keeps its text. `open` is the index of the token that opens the link. */
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
