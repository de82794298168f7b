import { mount, unmount } from 'svelte'
import { createSubscriber } from 'svelte/reactivity'
import { page } from './framework-page.js'
import SveltePage from './SveltePage.svelte'

let current: string | null = null
let update = (): void => {}
const track = createSubscriber(newUpdate => { update = newUpdate })
let component: Record<string, unknown> | undefined

page.show = newUrl => {
  current = newUrl
  update()
  component ??= mount(SveltePage, {
    target: document.querySelector('main') as HTMLElement,
    props: {
      url: {
        get current () {
          track()
          return current
        }
      }
    }
  })
}
page.unmount = () => { if (component !== undefined) unmount(component).catch(reportError) }
