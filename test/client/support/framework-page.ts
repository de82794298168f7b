import type { ClientSession, ConnectOptions } from '../../../lib/client/index.js'

export interface TestContract {
  down: { said: string }
  up: { message: (text: string) => void, shout: (text: string) => string }
}

/** The global variables of the page of a framework, for tests. The page shows the state, the latest event `said` and the newest event. */
export interface FrameworkPage {
  /** Mounts the component, or changes its URL. */
  show: (url: string | null) => void
  unmount: () => void
  /** The token that the headers contain. */
  token: string
  session: Pick<ClientSession<TestContract>, 'on' | 'send' | 'emit' | 'request' | 'subscribe' | 'close'> & { reopen: () => void }
  /** The texts that the component has shown. */
  texts: string[]
  /** The data of the events that a listener of the component received. */
  received: string[]
}

export const page = window as unknown as FrameworkPage
page.texts = []
page.received = []
page.token = 'first'

/** Records a text that the component shows, and returns it. */
export function record (...values: unknown[]): string {
  const text = values.map(value => typeof value === 'object' ? JSON.stringify(value) : value).join(' ')
  page.texts.push(text)
  return text
}

export const getOptions = (): ConnectOptions => ({ headers: { 'x-token': page.token } })
