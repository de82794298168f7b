import t from 'tap'
import { needsChromium } from '../support/browser.js'
import { bundleForBrowser } from '../support/bundle.js'
import { waitUntil } from '../support/wait.js'
import { block } from './docs.js'
import { createFolder, createPage, startApp } from './docs-run.js'

// By the extension of the components.
const FRAMEWORKS = {
  tsx: {
    chat: block('docs/react.md', 'chat'),
    list: block('docs/react.md', 'list'),
    main: `
      import { StrictMode } from 'react'
      import { createRoot } from 'react-dom/client'
      import { Chat } from './chat.tsx'
      import { List } from './list.tsx'
      createRoot(document.querySelector('main')).render(<StrictMode><Chat /><List /></StrictMode>)
    `
  },
  vue: {
    chat: block('docs/vue.md', 'chat'),
    list: block('docs/vue.md', 'list'),
    main: `
      import { createApp, h } from 'vue'
      import Chat from './chat.vue'
      import List from './list.vue'
      createApp(() => [h(Chat), h(List)]).mount('main')
    `
  },
  svelte: {
    chat: block('docs/svelte.md', 'chat'),
    list: block('docs/svelte.md', 'list'),
    main: `
      import { mount } from 'svelte'
      import Chat from './chat.svelte'
      import List from './list.svelte'
      for (const component of [Chat, List]) mount(component, { target: document.querySelector('main') })
    `
  }
}

for (const [extension, { chat, list, main }] of Object.entries(FRAMEWORKS)) {
  t.test(`the .${extension} components show the state and the events of the quick start's server`, needsChromium, async t => {
    const save = createFolder(t)
    save('index.html', '')
    const url = await startApp(t, save('server.ts', block('README.md', 'server')))
    save(`chat.${extension}`, chat)
    save(`list.${extension}`, list)
    const page = await createPage(t, url, '<main></main><script type="module" src="/page.js"></script>', await bundleForBrowser(save(extension === 'tsx' ? 'main.tsx' : 'main.js', main)))
    const problems: string[] = []
    page.on('pageerror', problem => { problems.push(String(problem)) })
    // The response starts after onOpen, so a session with a stream is a member of the channel.
    let streams = 0
    page.on('response', response => { if (response.url().endsWith('/downward')) streams++ })
    await page.goto(url)
    await waitUntil(() => streams === 2, 'the streams of both components')
    for (const count of [1, 2]) {
      await page.getByRole('button').click()
      await page.getByRole('listitem').nth(count - 1).getByText('hello').waitFor()
    }
    await page.getByText('open hello').waitFor()
    t.equal(await page.getByRole('listitem').count(), 2)
    t.strictSame(problems, [])
  })
}
