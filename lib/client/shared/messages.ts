// What the tabs of a shared session and their leader send each other.
import type { Position } from './log.js'

/** A request for a stream, without the signal, which cannot be sent to another tab. */
export interface StreamRequest {
  readonly url: string
  readonly init: Omit<RequestInit, 'signal'> & { readonly headers: Record<string, string> }
}

/** A request of a tab for what follows its position. The leader answers when there is something. */
export interface Pull {
  readonly position: Position
  readonly tab: string
  readonly number: number
  readonly isVisible: boolean
  /** Set in the first pull of a stream. */
  readonly request?: StreamRequest
  /** Whether the tab has given up its previous stream, so that the stream of the leader may be dead, too. */
  readonly isRetry?: boolean
}

/** An answer to a pull: that the leader is running, the response to the request, its error, the end of the stream, or the text that follows. */
export type Reply = { readonly number: number } & (
  | { readonly kind: 'waiting' | 'end' }
  | { readonly kind: 'response', readonly status: number, readonly headers: Array<[string, string]>, readonly text: string }
  | { readonly kind: 'error', readonly message: string }
  | { readonly kind: 'text', readonly text: string, readonly position: Position }
)
export type ReplyContent = Reply extends infer R ? R extends Reply ? Omit<R, 'number'> : never : never
