import type { Test } from 'tap'
import type { SseSessionsOptions } from '../../../lib/index.js'
import { serve, type Served } from '../../support/server.js'

export interface RecordingServer extends Served {
  /** The `Last-Event-ID` of each GET, in order. */
  readonly gets: Array<string | undefined>
  /** The session id and the reason of each onClose hook. */
  readonly closed: Array<[id: string, reason: string]>
}

/** Serves the plugin and records GET requests and closed sessions. */
export async function serveRecording (t: Test, options: SseSessionsOptions = {}): Promise<RecordingServer> {
  const gets: RecordingServer['gets'] = []
  const closed: RecordingServer['closed'] = []
  const served = await serve(t, { retry: 1, ...options }, {
    before: app => app.addHook('onRequest', async ({ method, headers }) => { if (method === 'GET') gets.push(headers['last-event-id']?.toString()) })
  })
  served.sessions.addHook('onClose', ({ id }, reason) => { closed.push([id, reason]) })
  return { ...served, gets, closed }
}
