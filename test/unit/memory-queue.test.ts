import t from 'tap'
import type { QueuedMessage, StoredResponse } from '../../lib/index.js'
import { resolveOptions, type SseSessionsOptions } from '../../lib/options.js'
import { MemoryLimit } from '../../lib/store/memory/memory-limit.js'
import { MemoryQueue } from '../../lib/store/memory/memory-queue.js'
import { deferred } from '../support/wait.js'

const createQueue = (options: SseSessionsOptions, limit = new MemoryLimit(Infinity)): MemoryQueue => new MemoryQueue(resolveOptions(options, 0), limit)

function createResponse (bytes: number): StoredResponse {
  return { status: 200, headers: { 'x-test': 'yes' }, body: 'x'.repeat(bytes) }
}

function createMessage (key: string | undefined, handle: QueuedMessage['handle'], size = 0): QueuedMessage {
  return { key, fingerprint: () => 'same', handle, size: () => size }
}

const enqueue = async (queue: MemoryQueue, ...message: Parameters<typeof createMessage>): Promise<unknown> => await queue.enqueue(createMessage(...message))

t.test('a repeat whose response was dropped is rejected and not handled again', async t => {
  const queue = createQueue({ maxResponseBytes: 5000 })
  let handled = 0
  const send = (key: string, bytes: number): Promise<unknown> => enqueue(queue, key, () => {
    handled++
    return createResponse(bytes)
  })
  for (const key of ['a', 'b', 'c']) await send(key, 2000)
  await t.rejects(send('a', 0), { code: 'FST_SSE_RESPONSE_DROPPED', statusCode: 410 })
  t.match(await send('b', 0), { replayed: true })
  await send('too large', 6000)
  await t.rejects(send('too large', 0), { code: 'FST_SSE_RESPONSE_DROPPED' })
  t.match(await send('b', 0), { replayed: true }, 'a response that is larger than the limit does not replace others')
  t.match(await send('c', 0), { replayed: true })
  t.equal(handled, 4)
  t.ok(queue.weight <= 5000)
})

t.test('limits the bytes of the messages that wait, but lets one message or batch of any size wait', async t => {
  const queue = createQueue({ maxWaitingBytes: 100 })
  const gate = deferred()
  const hang = async (): Promise<StoredResponse> => {
    await gate.promise
    return createResponse(0)
  }
  const results = [enqueue(queue, 'first', hang, 500), enqueue(queue, undefined, hang, 500)]
  await t.rejects(enqueue(queue, undefined, hang, 1), { code: 'FST_SSE_TOO_MANY_WAITING' })
  t.throws(() => queue.enqueueAll([createMessage(undefined, hang, 1)]), { code: 'FST_SSE_TOO_MANY_WAITING' })
  await t.rejects(enqueue(queue, 'first', hang, 1), { code: 'FST_SSE_TOO_MANY_WAITING' }, 'a repeat that waits counts')
  gate.resolve()
  await Promise.all(results)
  const batch = [0, 1, 2].map(n => createMessage(String(n), async () => createResponse(n), 80))
  t.match(await Promise.all(queue.enqueueAll(batch)), [{ replayed: false }, { replayed: false }, { replayed: false }])
  t.match(await Promise.all(queue.enqueueAll(batch)), [{ replayed: true }, { replayed: true }, { replayed: true }])
})

t.test('counts repeats that wait for a response as waiting messages', async t => {
  const queue = createQueue({ maxWaitingMessages: 2 })
  const gate = deferred<StoredResponse>()
  const repeats = Array.from({ length: 3 }, () => enqueue(queue, 'key', () => gate.promise))
  await t.rejects(enqueue(queue, 'key', () => gate.promise), { code: 'FST_SSE_TOO_MANY_WAITING' })
  gate.resolve(createResponse(0))
  t.match(await Promise.all(repeats), [{ replayed: false }, { replayed: true }, { replayed: true }])
})

t.test('refuses messages if the memory is used up, and accepts them when it is free again', async t => {
  const limit = new MemoryLimit(1000)
  const queue = createQueue({}, limit)
  const gate = deferred<StoredResponse>()
  const full = { code: 'FST_SSE_MEMORY_FULL', statusCode: 503 }
  const first = enqueue(queue, undefined, () => gate.promise)
  await t.rejects(enqueue(queue, undefined, () => gate.promise, 1001), full)
  const waiting = enqueue(queue, undefined, () => createResponse(0), 900)
  await t.rejects(enqueue(queue, 'key', () => createResponse(0)), full)
  t.throws(() => queue.enqueueAll([createMessage('key', () => createResponse(0))]), full)
  gate.resolve(createResponse(0))
  await Promise.all([first, waiting])
  t.match(await enqueue(queue, 'key', () => createResponse(0)), { replayed: false })
})

t.test('a closed queue frees its memory, also if a handler finishes later', async t => {
  const limit = new MemoryLimit(10_000)
  const queue = createQueue({}, limit)
  const [resolved, rejected] = [deferred<StoredResponse>(), deferred<Promise<StoredResponse>>()]
  await enqueue(queue, 'stored', () => createResponse(2000))
  const results = [enqueue(queue, 'resolved', () => resolved.promise), enqueue(queue, 'rejected', async () => await rejected.promise, 100)]
  queue.close()
  t.equal(queue.weight, 0)
  t.equal(limit.hasRoom(9900), true)
  resolved.resolve(createResponse(5000))
  rejected.resolve(Promise.reject(new Error('late')))
  await results[0]
  await t.rejects(results[1] as Promise<unknown>, { message: 'late' })
  t.equal(queue.weight, 0)
  t.equal(limit.hasRoom(10_000), true)
})

t.test('a queue that a handler closes before it first waits keeps no memory', async t => {
  const limit = new MemoryLimit(10_000)
  const queue = createQueue({}, limit)
  const gate = deferred<StoredResponse>()
  const waiting = enqueue(queue, 'waiting', () => {
    queue.close()
    return gate.promise
  })
  t.equal(limit.hasRoom(10_000), true)
  gate.resolve(createResponse(2000))
  t.match(await waiting, { replayed: false })
  await enqueue(queue, 'next', () => createResponse(2000))
  t.equal(queue.weight, 0)
  t.equal(limit.hasRoom(10_000), true)
})

t.test('counts the bytes of concurrent messages that are being handled, and frees them when they are handled', async t => {
  const limit = new MemoryLimit(1000)
  const queue = createQueue({ maxWaitingBytes: 100 }, limit)
  const gate = deferred<StoredResponse>()
  const enqueueConcurrent = async (size: number, handle: QueuedMessage['handle'] = () => gate.promise): Promise<unknown> => await queue.enqueue({ ...createMessage(undefined, handle, size), isConcurrent: true })
  const first = enqueueConcurrent(500)
  await t.rejects(enqueueConcurrent(1), { code: 'FST_SSE_TOO_MANY_WAITING' })
  t.throws(() => queue.enqueueAll([createMessage(undefined, () => createResponse(0)), { ...createMessage(undefined, () => createResponse(0), 1), isConcurrent: true }]), { code: 'FST_SSE_TOO_MANY_WAITING' })
  t.equal(limit.hasRoom(501), false)
  gate.resolve(createResponse(0))
  await first
  await t.rejects(enqueueConcurrent(0, () => { throw new Error('failed') }), { message: 'failed' })
  await enqueueConcurrent(500, () => createResponse(0))
  await t.rejects(enqueueConcurrent(1001), { code: 'FST_SSE_MEMORY_FULL' })
  t.equal(limit.hasRoom(1000), true)
})
