import { StrictMode, Suspense, useEffect, type ReactNode } from 'react'
import { createRoot } from 'react-dom/client'
import type { ConnectOptions } from '../../../lib/client/index.js'
import { useSession, useSessionEvent, type SessionHandle } from '../../../lib/client/react.js'

export interface Talk {
  down: { said: string }
  up: { message: (text: string) => void, shout: (text: string) => string }
}

/** What a test can use of the page. */
export interface ReactPage {
  show: (url: string, options?: ConnectOptions) => void
  unmount: () => void
  /** Has something beside the component wait for what is promised, which hides both until then. */
  suspend: (until: Promise<void>) => void
  /** What the hook gave last. */
  session: SessionHandle<Talk>
  /** What each rendering of the hook's has given. */
  renders: Array<Pick<SessionHandle<Talk>, 'state' | 'sessionId' | 'lastEvent'> & { said: string | undefined }>
  /** What an effect of a component further in has heard. */
  heard: string[]
}

const page = window as unknown as ReactPage

function Probe ({ url, options }: { url: string, options: ConnectOptions | undefined }): ReactNode {
  const session = useSession<Talk>(url, options)
  const said = useSessionEvent(session, 'said')
  const { state, sessionId, lastEvent } = session
  page.session = session
  page.renders.push({ state, sessionId, lastEvent, said })
  return <><p>{`${state} ${said}`}</p><Ear on={session.on} /></>
}

function Ear ({ on }: Pick<SessionHandle<Talk>, 'on'>): ReactNode {
  useEffect(() => on('said', text => { page.heard.push(text) }), [on])
  return null
}

/** Waits as React has it: what is thrown is rendered anew when it is there. */
function Wait ({ until }: { until: Promise<void> | undefined }): ReactNode {
  if (until !== undefined && until !== arrived) throw until
  return null
}

const root = createRoot(document.querySelector('main') as HTMLElement)
let arrived: Promise<void> | undefined
let shown: Parameters<ReactPage['show']> = ['']
const render = (until?: Promise<void>): void => {
  const [url, options] = shown
  root.render(<StrictMode><Suspense fallback={<p>hidden</p>}><Probe url={url} options={options} /><Wait until={until} /></Suspense></StrictMode>)
}
page.renders = []
page.heard = []
page.show = (...args) => {
  shown = args
  render()
}
page.suspend = until => {
  until.then(() => { arrived = until }, () => {})
  render(until)
}
page.unmount = () => { root.unmount() }
