// First, because it must be installed before React is loaded.
import refresh from './react-refresh.js'
import { StrictMode, Suspense, useEffect, type ReactNode } from 'react'
import { createRoot } from 'react-dom/client'
import { useSession, useSessionEvent, type SessionHandle, type SessionOptions } from '../../../lib/client/react.js'

export interface TestContract {
  down: { said: string }
  up: { message: (text: string) => void, shout: (text: string) => string }
}

/** The global variables of the page, for tests. */
export interface ReactPage {
  show: (url: string | null, options?: SessionOptions, isStrict?: boolean) => void
  /** Runs Fast Refresh, as after an edit of the component. */
  refresh: () => void
  /** Number of times that an effect that depends on the functions of the session has run. */
  effectRuns: number
  unmount: () => void
  /** Suspends the component until the promise resolves. */
  suspend: (until: Promise<void>) => void
  /** The newest value that the hook returned. */
  session: SessionHandle<TestContract>
  /** What the hooks returned in each render. */
  renders: Array<Pick<SessionHandle<TestContract>, 'state' | 'sessionId' | 'lastEvent'> & { said: string | undefined }>
  /** The data of the events that an effect of a child component received. */
  received: string[]
}

const page = window as unknown as ReactPage

function SessionText ({ url, options }: { url: string | null, options: SessionOptions | undefined }): ReactNode {
  const session = useSession<TestContract>(url, options)
  const said = useSessionEvent(session, 'said')
  const { state, sessionId, lastEvent } = session
  page.session = session
  const { on, send, emit, request, close, reopen } = session
  useEffect(() => { page.effectRuns++ }, [on, send, emit, request, close, reopen])
  page.renders.push({ state, sessionId, lastEvent, said })
  return <><p>{`${state} ${said}`}</p><EventRecorder on={session.on} /></>
}

function EventRecorder ({ on }: Pick<SessionHandle<TestContract>, 'on'>): ReactNode {
  useEffect(() => on('said', text => { page.received.push(text) }), [on])
  return null
}

/** Suspends: React renders the component again when the promise that it throws has resolved. */
function Suspender ({ until }: { until: Promise<void> | undefined }): ReactNode {
  if (until !== undefined && until !== resolved) throw until
  return null
}

const root = createRoot(document.querySelector('main') as HTMLElement)
let resolved: Promise<void> | undefined
let props: Parameters<ReactPage['show']> = [null]
const render = (until?: Promise<void>): void => {
  const [url, options, isStrict = true] = props
  const content = <Suspense fallback={<p>hidden</p>}><SessionText url={url} options={options} /><Suspender until={until} /></Suspense>
  root.render(isStrict ? <StrictMode>{content}</StrictMode> : content)
}
page.renders = []
page.effectRuns = 0
page.refresh = () => { refresh.update(SessionText) }
page.received = []
page.show = (...args) => {
  props = args
  render()
}
page.suspend = until => {
  until.then(() => { resolved = until }, () => {})
  render(until)
}
page.unmount = () => { root.unmount() }
