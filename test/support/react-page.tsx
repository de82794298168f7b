import { StrictMode, useEffect, type ReactNode } from 'react'
import { createRoot } from 'react-dom/client'
import type { ConnectOptions } from '../../lib/client/index.js'
import { useSession, useSessionEvent, type SessionHandle } from '../../lib/client/react.js'

export interface Talk {
  down: { said: string }
  up: { message: (text: string) => void, shout: (text: string) => string }
}

/** What a test can use of the page. */
export interface ReactPage {
  show: (url: string, options?: ConnectOptions) => void
  unmount: () => void
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

const root = createRoot(document.querySelector('main') as HTMLElement)
page.renders = []
page.heard = []
page.show = (url, options) => { root.render(<StrictMode><Probe url={url} options={options} /></StrictMode>) }
page.unmount = () => { root.unmount() }
