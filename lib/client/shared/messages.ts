// The messages between the tabs of a shared session and their leader.
import type { LogPosition } from './log.js'

/** A request for a stream, without the signal, which cannot be sent to another tab. */
export interface StreamRequest {
  readonly url: string
  readonly init: Omit<RequestInit, 'signal'> & { readonly headers: Record<string, string> }
}

/** Reads the log after a position. The leader replies when there are new entries. */
export interface Pull {
  readonly tabId: string
  readonly number: number
  readonly position: LogPosition
  /** Whether the user sees the tab. */
  readonly isVisible: boolean
  /** Set in the first pull of a stream. */
  readonly streamRequest?: StreamRequest
  /** Whether the tab has aborted its previous stream, for example after its idle timeout, so that the leader's stream may be dead. */
  readonly previousAborted?: boolean
}

export type ReplyContent =
  /** The leader has received the pull before, and is running. */
  | { readonly kind: 'pending' }
  /** The stream has ended, or is one of another session. */
  | { readonly kind: 'end' }
  /** The request for the stream got this response, which is no stream. */
  | { readonly kind: 'response', readonly status: number, readonly headers: Array<[string, string]>, readonly text: string }
  /** The request for the stream got no response. */
  | { readonly kind: 'error', readonly message: string }
  /** The text of the stream up to a position. */
  | { readonly kind: 'text', readonly text: string, readonly position: LogPosition }

/** Answers the pull with this number. */
export type Reply = { readonly number: number } & ReplyContent
