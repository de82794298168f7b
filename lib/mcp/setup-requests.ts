import type { JsonRpcRequest } from './json-rpc.js'

/** The limits of what is stored in addition to `initialize`: the number of requests, and the characters of their JSON. */
const MAX_COUNT = 256
const MAX_LENGTH = 64 * 1024

/** Requests whose effect lasts, or that undo one. The last one with a lasting effect is stored, for each `uri`. */
const EFFECTS: ReadonlyMap<string, string> = new Map([['logging/setLevel', 'level'], ['resources/subscribe', 'subscription'], ['resources/unsubscribe', 'subscription']])

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
  const isStored = added.length <= MAX_COUNT && JSON.stringify(added).length <= MAX_LENGTH
  return [...requests.slice(0, 1), ...isStored ? added : others]
}
