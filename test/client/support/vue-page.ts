import { createApp, h, shallowRef, type App } from 'vue'
import { useSession, useSessionEvent } from '../../../lib/client/vue.js'
import { getOptions, page, record, type TestContract } from './framework-page.js'

const url = shallowRef<string | null>(null)
let app: App | undefined

page.show = newUrl => {
  url.value = newUrl
  if (app !== undefined) return
  app = createApp({
    setup () {
      const session = useSession<TestContract>(url, getOptions)
      const { state, sessionId, lastEvent, on } = session
      const said = useSessionEvent(session, 'said')
      on('said', text => { page.received.push(text) })
      page.session = session
      return () => h('p', { id: sessionId.value }, record(state.value, said.value, lastEvent.value?.event))
    }
  })
  app.mount('main')
}
page.unmount = () => { app?.unmount() }
