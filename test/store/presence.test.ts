import t from 'tap'
import type { Session, Sessions } from '../../lib/index.js'
import { attachMemoryStream, findSession, openSession, type MemoryStream } from '../support/memory-stream.js'
import { testEachStore } from '../support/stores.js'
import { waitUntil } from '../support/wait.js'

// Who is in a channel, on every store. If nodes can share the store, the tests use two nodes.

const KEEP = 60_000

const idsOf = (sessions: readonly Session[]): string[] => sessions.map(({ id }) => id).toSorted()

/** Records the hooks `onJoin`, `onLeave` and `onClose` of a node, with the data of the session. */
function recordHooks (sessions: Sessions, name: string, calls: string[]): void {
  sessions
    .addHook('onJoin', async ({ data }, channel) => { calls.push(`${name}: ${String(data.name)} joins ${channel.name}`) })
    .addHook('onLeave', async ({ data }, channel) => { calls.push(`${name}: ${String(data.name)} leaves ${channel.name}`) })
    .addHook('onClose', async ({ data }, reason) => { calls.push(`${name}: ${String(data.name)} closed, ${reason}`) })
}

testEachStore(t, 'a channel lists its members on any node, with their data', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  t.strictSame(await nodeA.channel('room').sessions(), [])
  const sessions: Session[] = []
  for (const [n, node] of [nodeA, nodeB, nodeA, nodeB].entries()) {
    const session = await openSession(node)
    await session.update({ name: `person ${n}` })
    await session.join('room')
    sessions.push(session)
  }
  const [first, second, third, fourth] = sessions as [Session, Session, Session, Session]
  for (const node of [nodeA, nodeB]) {
    const members = await node.channel('room').sessions()
    t.strictSame(idsOf(members), idsOf(sessions))
    t.strictSame(members.map(({ data }) => data.name).toSorted(), ['person 0', 'person 1', 'person 2', 'person 3'])
  }
  await (await findSession(nodeB, first)).leave('room')
  await (await findSession(nodeA, second)).close()
  for (const node of [nodeA, nodeB]) t.strictSame(idsOf(await node.channel('room').sessions()), idsOf([third, fourth]))
  t.equal(await nodeA.channel('room').count(), 2)
})

testEachStore(t, 'onJoin and onLeave run once for each join and leave, in the process that has called it', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const calls: string[] = []
  recordHooks(nodeA, 'A', calls)
  if (nodeB !== nodeA) recordHooks(nodeB, 'B', calls)
  const remoteName = nodeB === nodeA ? 'A' : 'B'
  const session = await openSession(nodeA)
  await session.update({ name: 'ann' })
  const remote = await findSession(nodeB, session)
  await Promise.all([session.join('room'), session.join('room'), remote.join('hall'), remote.join('hall')])
  await remote.join('room')
  await session.leave('nowhere')
  t.strictSame(calls.splice(0).toSorted(), [`${remoteName}: ann joins hall`, 'A: ann joins room'].toSorted())
  await Promise.all([session.leave('hall'), remote.leave('room'), session.leave('hall')])
  await remote.leave('hall')
  t.strictSame(calls.splice(0).toSorted(), ['A: ann leaves hall', `${remoteName}: ann leaves room`].toSorted())
  await session.join('room')
  await remote.join('hall')
  calls.length = 0
  await remote.close()
  await session.close()
  t.strictSame(calls.slice(0, 2).toSorted(), [`${remoteName}: ann leaves hall`, `${remoteName}: ann leaves room`])
  t.strictSame(calls.slice(2), [`${remoteName}: ann closed, closed`])
  await remote.leave('room')
  t.equal(calls.length, 3, 'a closed session leaves no channel')
  t.strictSame(remote.channels.toSorted(), ['hall', 'room'], 'its channels are those that it was in')
})

testEachStore(t, 'onLeave runs for the channels of a session that has expired, once', async (t, store) => {
  const options = { resumeTimeout: 200 }
  const [nodeA, nodeB] = [await store.addNode(options), await store.addNode(options)]
  const calls: string[] = []
  recordHooks(nodeA, '', calls)
  if (nodeB !== nodeA) recordHooks(nodeB, '', calls)
  const session = await openSession(nodeA)
  await session.update({ name: 'ann' })
  const stream = await attachMemoryStream(nodeA, session)
  await session.join('room')
  await (await findSession(nodeB, session)).join('hall')
  stream.sink.destroy()
  await waitUntil(() => calls.some(call => call.includes('closed')), 'the end of the session')
  t.strictSame(calls.slice(0, 2).toSorted(), [': ann joins hall', ': ann joins room'])
  t.strictSame(calls.slice(2, 4).toSorted(), [': ann leaves hall', ': ann leaves room'])
  t.strictSame(calls.slice(4), [': ann closed, expired'])
  t.equal(await nodeB.channel('room').count(), 0)
})

testEachStore(t, 'a join, a leave and a close at the same time run each hook once', async (t, store) => {
  const node = await store.addNode()
  const calls: string[] = []
  recordHooks(node, '', calls)
  const session = await openSession(node)
  await Promise.all([session.join('room'), session.leave('room'), session.close()])
  t.strictSame(calls.toSorted(), [': undefined closed, closed', ': undefined joins room', ': undefined leaves room'])
  t.strictSame(session.channels, [])
})

testEachStore(t, 'join and leave wait for the hooks, whose errors do not fail them', async (t, store) => {
  const node = await store.addNode()
  const calls: string[] = []
  for (const name of ['onJoin', 'onLeave'] as const) {
    node.addHook(name, () => { throw new Error('a hook that fails') })
    node.addHook(name, async (session, channel) => {
      await channel.emit(name, { count: await channel.count() }, { except: session })
      calls.push(name)
    })
  }
  const [first, second] = [await openSession(node), await openSession(node)]
  const stream = await attachMemoryStream(node, first)
  await first.join('room')
  t.strictSame(await second.join('room', { history: 0 }), [])
  t.strictSame(calls, ['onJoin', 'onJoin'])
  await second.leave('room')
  t.strictSame(calls, ['onJoin', 'onJoin', 'onLeave'])
  await waitUntil(() => stream.read().length === 2, 'the events of the hooks')
  t.strictSame(stream.events.map(({ event, data }) => [event, data]), [['onJoin', { count: 2 }], ['onLeave', { count: 1 }]])
})

testEachStore(t, 'closing a channel removes all members, and drops the history that it keeps', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const sessions = [await openSession(nodeA), await openSession(nodeB)]
  const streams = [await attachMemoryStream(nodeA, sessions[0] as Session), await attachMemoryStream(nodeB, sessions[1] as Session)]
  const left: string[] = []
  nodeB.addHook('onLeave', async session => { left.push(session.id) })
  for (const session of sessions) await session.join('room')
  await nodeA.channel('room', { keep: KEEP }).send('before')
  await nodeB.channel('room').close()
  t.strictSame(left.toSorted(), idsOf(sessions))
  await nodeA.channel('room').send('after')
  t.equal(await nodeA.channel('room').count(), 0)
  t.strictSame(await nodeA.channel('room').sessions(), [])
  for (const session of sessions) t.strictSame((await findSession(nodeA, session)).channels, [])
  const late = await openSession(nodeA)
  t.strictSame(await late.join('room', { history: Infinity }), [])
  await nodeA.channel('room', { keep: KEEP }).send('again')
  const later = await openSession(nodeB)
  t.strictSame((await later.join('room', { history: Infinity })).map(({ data }) => data), ['again'])
  await waitUntil(() => streams.every(stream => stream.messages().length === 1), 'what was sent before')
  t.strictSame(streams.map(stream => stream.messages()), [['before'], ['before']])
  await nodeA.channel('nobody').close()
  await late.leave('room')
  await later.leave('room')
  await nodeA.channel('room').close()
  t.strictSame(await late.join('room', { history: Infinity }), [], 'also without members')
})

testEachStore(t, 'a member that has not received everything yet still receives it after the channel was closed', async (t, store) => {
  const node = await store.addNode()
  const session = await openSession(node)
  await session.join('room')
  await node.channel('room', { keep: KEEP }).send('before')
  await node.channel('room').close()
  await node.channel('room').send('after')
  const stream = await attachMemoryStream(node, session)
  await session.send('last')
  await waitUntil(() => stream.messages().includes('last'), 'the events')
  t.strictSame(stream.messages(), ['before', 'last'])
  await node.channel('quiet', { keep: KEEP }).send('kept')
  await node.channel('quiet').close()
  t.strictSame(await session.join('quiet', { history: Infinity }), [], 'nobody was in this channel')
})

testEachStore(t, 'an event excludes several sessions', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const sessions: Session[] = []
  const streams: MemoryStream[] = []
  for (const node of [nodeA, nodeB, nodeA, nodeB]) {
    const session = await openSession(node)
    sessions.push(session)
    streams.push(await attachMemoryStream(node, session))
    await session.join('room')
  }
  const [first, second, third] = sessions as [Session, Session, Session]
  await nodeA.channel('room', { keep: KEEP }).send('channel', { except: [first, third] })
  await nodeB.broadcast('message', 'broadcast', { except: [second, { id: 'nobody' }, third] })
  await nodeA.channel('room').send('to all', { except: [] })
  await waitUntil(() => streams.every(stream => stream.messages().includes('to all')), 'the last event')
  const expected = [['broadcast', 'to all'], ['channel', 'to all'], ['to all'], ['channel', 'broadcast', 'to all']]
  t.strictSame(streams.map(stream => stream.messages().toSorted()), expected.map(messages => messages.toSorted()))
  await third.leave('room')
  t.strictSame((await third.join('room', { history: 5 })).map(({ data }) => data), ['to all'])
})

testEachStore(t, 'after a channel without members was closed, a former member receives what was sent before', async (t, store) => {
  const [nodeA, nodeB] = [await store.addNode(), await store.addNode()]
  const session = await openSession(nodeA)
  const before = await attachMemoryStream(nodeA, session)
  await session.join('room')
  before.sink.destroy()
  await waitUntil(() => !session.connected, 'the disconnect')
  await nodeB.channel('room', { keep: KEEP }).send('unread')
  await session.leave('room')
  await nodeB.channel('room').close()
  const after = await attachMemoryStream(nodeB, await findSession(nodeB, session), before.cursor)
  await session.send('last')
  await waitUntil(() => after.messages().includes('last'), 'the last event')
  t.strictSame(after.read().map(({ event, data }) => [event, data]), [['message', 'unread'], ['message', 'last']])
})
