import { createParser } from 'eventsource-parser'
import type { Test } from 'tap'
import { Agent, fetch } from 'undici'
import { deferred, withTimeout } from '../../support/wait.js'

export interface RunEvent {
  readonly event: string
  readonly data: string
  readonly id: string | undefined
}

/** A response that follows a run, read by `fetch`. */
export interface RunResponse {
  readonly status: number
  readonly headers: Headers
  /** Everything received so far. */
  readonly text: () => string
  readonly events: RunEvent[]
  /** The id of the last complete block, also of one without data; empty if there is none. */
  readonly lastEventId: () => string
  /** Resolves with the first event, received earlier or later, with this data. */
  waitFor (data: string): Promise<RunEvent>
  /** Resolves at the end of the body: with true if the response was complete, with false if it was aborted. */
  readonly isComplete: Promise<boolean>
  abort (): void
}

export interface FollowOptions {
  readonly method?: string
  readonly headers?: Record<string, string>
  readonly body?: unknown
}

/** Sends a request and reads the events of its response. */
export async function follow (t: Test, url: string, { method = 'GET', headers = {}, body }: FollowOptions = {}): Promise<RunResponse> {
  const dispatcher = new Agent({ bodyTimeout: 0 })
  t.teardown(() => dispatcher.destroy())
  const abortController = new AbortController()
  const response = await withTimeout(fetch(url, {
    method,
    headers: { ...headers, ...body !== undefined && { 'content-type': 'application/json' } },
    body: body === undefined ? null : JSON.stringify(body),
    signal: abortController.signal,
    dispatcher
  }), `a response of ${url}`)
  const events: RunEvent[] = []
  const checks = new Set<() => void>()
  const isComplete = deferred<boolean>()
  let text = ''
  const parser = createParser({ onEvent: ({ event = 'message', data, id }) => { events.push({ event, data, id }) } })
  const read = async (): Promise<void> => {
    const decoder = new TextDecoder()
    for await (const chunk of response.body ?? []) {
      const decoded = decoder.decode(chunk as Uint8Array, { stream: true })
      text += decoded
      parser.feed(decoded)
      for (const check of checks) check()
    }
  }
  read().then(() => { isComplete.resolve(true) }, () => { isComplete.resolve(false) })
  return {
    status: response.status,
    headers: response.headers as unknown as Headers,
    text: () => text,
    events,
    lastEventId: () => [...text.slice(0, text.lastIndexOf('\n\n') + 1).matchAll(/^id: (.*)$/gm)].at(-1)?.[1] ?? '',
    waitFor: data => {
      const found = deferred<RunEvent>()
      const check = (): void => {
        const event = events.find(event => event.data === data)
        if (event !== undefined) found.resolve(event)
      }
      checks.add(check)
      check()
      return withTimeout(found.promise, `the data ${data}`)
    },
    isComplete: withTimeout(isComplete.promise, 'the end of a response', 30_000),
    abort: () => { abortController.abort() }
  }
}

/** The data of the events of a response, without the final event. */
export const dataOf = ({ events }: RunResponse): string[] => events.filter(({ event }) => event !== 'end').map(({ data }) => data)
