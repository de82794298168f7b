import t from 'tap'
import { StoreUnavailable } from '../../lib/errors.js'
import { Calls } from '../../lib/store/redis/calls.js'
import type { CommandQueue } from '../../lib/store/redis/command-queue.js'
import { deferred, nextEventLoopTick } from '../support/wait.js'

// The test decides when each reply arrives, in orders that are rare with Redis.
function createCalls () {
  const replies: Array<ReturnType<typeof deferred<unknown>>> = []
  const ids: string[] = []
  const results = new Map<string, ReturnType<typeof deferred<unknown>>>()
  const commandQueue = {
    execute: (...args: string[]) => {
      const reply = deferred<unknown>()
      replies.push(reply)
      ids.push(args.at(-1) as string)
      const throwIfError = (value: unknown): unknown => {
        if (value instanceof Error) throw value
        return value
      }
      return reply.promise.then(throwIfError)
    },
    executeWithoutDeadline: (_name: string, id: string) => {
      const result = deferred<unknown>()
      results.set(id, result)
      return result.promise
    }
  } as unknown as CommandQueue
  const calls = new Calls(commandQueue)
  const events: string[] = []
  const execute = (name: string, sessionId = 'session', hooks?: Promise<void>): void => {
    calls.execute('join', sessionId, [], result => {
      events.push(`${name} late: ${result}`)
      return hooks
    }).then(reply => { events.push(`${name}: ${String(reply)}`) }, () => { events.push(`${name} rejects`) })
  }
  return {
    calls,
    events,
    execute,
    resolve: async (index: number): Promise<void> => {
      replies[index]?.resolve('reply')
      await nextEventLoopTick()
    },
    reject: async (index: number): Promise<void> => {
      replies[index]?.resolve(new StoreUnavailable())
      await nextEventLoopTick()
    },
    find: async (index: number, result: string | null): Promise<void> => {
      results.get(ids[index] as string)?.resolve(result)
      await nextEventLoopTick()
    },
    /** The number of the oldest call whose result Redis keeps for the call with this index. */
    oldest: (index: number) => Number(ids[index]?.split(' ')[2])
  }
}

t.test('a call waits for earlier calls of its session whose results are not known, and for no others', async t => {
  const { events, execute, resolve, reject, find } = createCalls()
  execute('first')
  execute('second')
  execute('third')
  execute('other', 'other session')
  await reject(1)
  await resolve(3)
  await resolve(2)
  await resolve(0)
  t.strictSame(events, ['second rejects', 'other: reply', 'first: reply'])
  await find(1, 'changed')
  t.strictSame(events.slice(3), ['second late: changed', 'third: reply'])
})

t.test('the results of several calls of a session are read, also those that have changed nothing', async t => {
  const { events, execute, resolve, reject, find } = createCalls()
  for (const name of ['first', 'second', 'third']) execute(name)
  await reject(0)
  await reject(1)
  await find(1, null)
  await resolve(2)
  t.strictSame(events, ['first rejects', 'second rejects'])
  await find(0, 'changed')
  t.strictSame(events.slice(2), ['first late: changed', 'third: reply'])
})

t.test('Redis keeps the results of the calls that are not known yet, also if the hooks of a late result never end', async t => {
  const { execute, resolve, reject, find, oldest } = createCalls()
  execute('first', 'session', new Promise(() => {}))
  execute('second')
  await reject(0)
  await resolve(1)
  execute('third')
  t.equal(oldest(2), 1)
  await find(0, 'changed')
  execute('fourth')
  t.equal(oldest(3), 3)
})

t.test('`settle` also waits for calls that have not rejected yet', async t => {
  const { calls, events, execute, reject, find } = createCalls()
  execute('first')
  calls.settle().then(() => { events.push('settled') }, t.error)
  await reject(0)
  t.strictSame(events, ['first rejects'])
  await find(0, 'changed')
  t.strictSame(events, ['first rejects', 'first late: changed', 'settled'])
})
