import t from 'tap'
import type { JsonRpcMessage } from '../../lib/mcp/json-rpc.js'
import { ServerRequestIds } from '../../lib/mcp/server-request-ids.js'

const jsonrpc = '2.0'
const elicit = (id: number | string, progressToken?: unknown): JsonRpcMessage => ({ jsonrpc, id, method: 'elicitation/create', params: { message: 'name?', ...progressToken !== undefined && { _meta: { progressToken, other: 1 } } } })

t.test('the first server of a session uses its own ids', t => {
  const ids = new ServerRequestIds()
  for (const message of [elicit(0), elicit(1, 1)]) t.strictSame(ids.toClient(message), message)
  t.strictSame(ids.toServer({ jsonrpc, id: 1, result: {} }), { jsonrpc, id: 1, result: {} })
  t.end()
})

t.test('a server that continues a session uses other ids, in requests, cancellations and progress', t => {
  const [ids, others] = [new ServerRequestIds(), new ServerRequestIds()]
  ids.changeOffset()
  others.changeOffset()
  const sent = ids.toClient(elicit(0, 0))
  const id = sent.id as number
  t.ok(Number.isSafeInteger(id + 2 ** 24))
  t.not(id, others.toClient(elicit(0)).id)
  t.strictSame(sent, { jsonrpc, id, method: 'elicitation/create', params: { message: 'name?', _meta: { progressToken: id, other: 1 } } })
  t.strictSame(ids.toClient(elicit(1, 'own')).params, elicit(1, 'own').params)
  t.strictSame(ids.toClient({ jsonrpc, id: 2, method: 'ping' }), { jsonrpc, id: id + 2, method: 'ping' })
  const cancelled = { jsonrpc, method: 'notifications/cancelled', params: { requestId: 0, reason: 'late' } } as const
  t.strictSame(ids.toClient(cancelled).params, { requestId: id, reason: 'late' })
  t.strictSame(ids.toServer({ jsonrpc, id, result: {} }), { jsonrpc, id: 0, result: {} })
  const progress = (progressToken: unknown): JsonRpcMessage => ({ jsonrpc, method: 'notifications/progress', params: { progressToken, progress: 1 } })
  t.strictSame(ids.toServer(progress(id + 3)), progress(3))
  t.equal(ids.toServer({ jsonrpc, id: 0, result: {} }), undefined, 'an answer to the earlier server')
  t.equal(ids.toServer(progress(3)), undefined)
  t.end()
})

t.test('other messages are not changed', t => {
  const ids = new ServerRequestIds()
  ids.changeOffset()
  for (const message of [
    elicit('text', 'text'),
    { jsonrpc, id: 1, result: {} },
    { jsonrpc, method: 'notifications/tools/list_changed' }
  ] as const) t.strictSame(ids.toClient(message), message)
  for (const message of [
    { jsonrpc, id: 'text', result: {} },
    { jsonrpc, error: { code: -32700, message: 'Parse error' } },
    { jsonrpc, id: 1, method: 'tools/call', params: {} },
    { jsonrpc, method: 'notifications/progress', params: { progressToken: 'text' } },
    { jsonrpc, method: 'notifications/cancelled', params: { requestId: 1 } }
  ] as const) t.strictSame(ids.toServer(message), message)
  t.end()
})
