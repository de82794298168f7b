import type { Test } from 'tap'
import type { SseSessionsOptions } from '../../../lib/index.js'
import { startRedis, type RedisServer } from '../../support/redis-server.js'
import { openProxiedNode, type ProxiedNode } from '../../support/stores.js'
import { waitUntil } from '../../support/wait.js'

/** Starts Redis and opens two nodes with the same options. Each has its own proxy. */
export async function openTwoNodes (t: Test, options?: SseSessionsOptions, connectionOptions?: Parameters<typeof openProxiedNode>[3]): Promise<[redis: RedisServer, nodeA: ProxiedNode, nodeB: ProxiedNode]> {
  const redis = await startRedis(t)
  const [nodeA, nodeB] = await Promise.all([openProxiedNode(t, redis, options, connectionOptions), openProxiedNode(t, redis, options, connectionOptions)])
  return [redis, nodeA, nodeB]
}

/** Pauses what one of two nodes sends until the node counts as dead. */
export async function pauseUntilExpired (redis: RedisServer, { proxy }: ProxiedNode): Promise<void> {
  await waitUntil(async () => {
    // Without a reply, the node connects again, so its new connections are paused, too.
    for (const { client } of proxy.connections) client.pause()
    return await redis.sendCommand('ZCARD', '{sse}:nodes') === 1
  }, 'the node to count as dead')
}

/** Returns a function that returns whether a stream of a session was acquired since this call. */
export async function watchAcquire (redis: RedisServer, { id }: { readonly id: string }): Promise<() => Promise<boolean>> {
  const getEpoch = (): Promise<unknown> => redis.sendCommand('HGET', `{sse}:s:${id}`, 'epoch')
  const epoch = await getEpoch()
  return async () => await getEpoch() !== epoch
}
