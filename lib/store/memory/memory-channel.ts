import { Log, type LogBounds, type LogListener } from '../../log/log.js'
import type { SessionState } from '../session-state.js'

/** A channel that has members. After an append to its log, the streams of all members are notified. */
export class MemoryChannel implements LogListener {
  readonly members = new Set<SessionState>()
  readonly log: Log

  constructor (bounds: LogBounds) {
    this.log = new Log(bounds, this)
  }

  onAppend (): void {
    for (const member of this.members) member.onAppend()
  }
}
