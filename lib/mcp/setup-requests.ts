import type { JsonRpcRequest } from './json-rpc.js'

/** The limits of what is stored: the characters of the JSON of `initialize`, and of the other requests together, and the number of these. */
export const MAX_LENGTH = 64 * 1024
const MAX_COUNT = 256

/** Requests whose effect lasts, or that undo one. The last one with a lasting effect is stored, for each `uri`. */
const EFFECTS: ReadonlyMap<string, string> = new Map([['logging/setLevel', 'level'], ['resources/subscribe', 'subscription'], ['resources/unsubscribe', 'subscription']])

/** Whether `initialize`, or the other requests together, are small enough to be stored. What is nested too deeply for JSON is not. */
export function isStorable (value: JsonRpcRequest | readonly JsonRpcRequest[]): boolean {
  try {
    return JSON.stringify(value).length <= MAX_LENGTH
  } catch {
    return false
  }
}

/**
 * Adds a request to those that are sent to each new server of a session: `initialize`, then those for the level of the log and for
 * subscriptions. Returns the same array if the request has no lasting effect. A request that exceeds the limits is not added, but
 * the one that it would replace is removed.
 */
export function addSetupRequest (requests: readonly JsonRpcRequest[], { id, method, params }: JsonRpcRequest): readonly JsonRpcRequest[] {
  const effect = EFFECTS.get(method)
  if (effect === undefined) return requests
  const others = requests.slice(1).filter(request => EFFECTS.get(request.method) !== effect || request.params?.uri !== params?.uri)
  const added = method === 'resources/unsubscribe' ? others : [...others, { jsonrpc: '2.0' as const, id, method, ...params && { params } }]
  return [...requests.slice(0, 1), ...added.length <= MAX_COUNT && isStorable(added) ? added : others]
}
