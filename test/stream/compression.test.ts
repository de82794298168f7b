import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { Session, Sessions } from '../../lib/index.js'
import { kInternals } from '../../lib/sessions/session.js'
import { trackProcess } from '../support/child-process.js'
import { FORCE_CLOSE, testEachClient, waitForEvent } from '../support/clients.js'
import { findFreePort } from '../support/free-port.js'
import { http2Options } from '../support/http2.js'
import { needsProgram } from '../support/needs-program.js'
import { chooseSeed, createRandom } from '../support/random.js'
import { serve, type TestServer } from '../support/server.js'
import { deferred, nextEventLoopTick, waitUntil, withTimeout } from '../support/wait.js'
import { DECODERS, type DecodedEvent, type Decoder } from './support/decoders.js'

const STEPS = 200

/** Serves an empty page. Its connection is closed, so no idle connection stays open. */
const servePage = (app: FastifyInstance): void => {
  app.get('/page', async (_request, reply) => {
    return reply.type('text/html').header('connection', 'close').send('<!doctype html><link rel="icon" href="data:,">')
  })
}

/** Starts nginx in front of an app. Resolves with its URL. */
async function startNginx (t: Test, appUrl: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'nginx-'))
  t.teardown(() => { rmSync(folder, { recursive: true }) })
  const port = await findFreePort()
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${folder}/${name};`).join(' ')
  writeFileSync(join(folder, 'config'), `
    daemon off; pid ${folder}/pid; error_log stderr;
    events {}
    http {
      access_log off; ${paths}
      server {
        listen 127.0.0.1:${port};
        location / { proxy_pass ${appUrl}; proxy_http_version 1.1; proxy_set_header Connection ""; }
      }
    }
  `)
  trackProcess(t, spawn('nginx', ['-p', folder, '-c', join(folder, 'config')], { detached: true }), 'nginx')
  const url = `http://127.0.0.1:${port}`
  await waitUntil(() => fetch(`${url}/page`).then(({ ok }) => ok, () => false), 'nginx to listen')
  return url
}

/** The client of a session, and what it should receive. */
interface Client {
  readonly decoder: Decoder
  readonly received: DecodedEvent[]
  readonly expected: Array<[event: string, data: unknown]>
  readonly ended: Promise<unknown> | undefined
  session: Session | undefined
}

const serveCompressed = (t: Test, isHttp2: boolean): Promise<TestServer> => {
  return serve(t, { compress: true, heartbeatInterval: 5, heartbeatEvent: 'heartbeat', retry: 1 }, { afterRegister: servePage, ...isHttp2 && { fastify: http2Options } })
}

/** Sends random events to clients. After each event, the seed decides whether it is written now or together with the next. */
async function sendRandomly (random: () => number, sessions: Sessions, clients: readonly Client[]): Promise<void> {
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T
  const createData = (n: number): object => ({ n, user: pick(['anna', 'bob', 'eve']), text: pick(['hello', 'grüße', '日本', '🎉 party', 'x'.repeat(2000)]) })
  for (let n = 0; n < STEPS; n++) {
    const data = createData(n)
    // All clients that can reconnect do it at least once.
    const action = n === STEPS / 2 ? 1 : random()
    if (action < 0.6) {
      await sessions.broadcast('tick', data)
      for (const { expected } of clients) expected.push(['tick', data])
    } else if (action < 0.7) {
      const excluded = pick(clients)
      await sessions.broadcast('tick', data, { except: excluded.session as Session })
      for (const client of clients) if (client !== excluded) client.expected.push(['tick', data])
    } else if (action < 0.85) {
      await sessions.channel('room').send(data)
      for (const { expected } of clients) expected.push(['message', data])
    } else if (action < 0.97) {
      const client = pick(clients)
      await client.session?.send(data)
      client.expected.push(['message', data])
    } else {
      for (const { decoder, session } of clients) if (decoder.reconnects === true) session?.[kInternals].disconnect()
    }
    if (random() < 0.7) await nextEventLoopTick()
    if (random() < 0.05) await waitUntil(() => clients[0]?.received.at(-1)?.event === 'heartbeat', 'a heartbeat')
  }
}

/** Opens a stream with each decoder, sends events, and compares them with what the decoders report. */
async function testDecoders (t: Test, { sessions }: TestServer, url: string, decoders: readonly Decoder[]): Promise<void> {
  const random = createRandom(chooseSeed(t))
  const opened = new Map<unknown, Session>()
  sessions.addHook('onOpen', async (session, { query }) => {
    opened.set((query as { client: string }).client, session)
    await session.join('room')
  })
  const clients = await Promise.all(decoders.map(async (decoder, index): Promise<Client> => {
    const received: DecodedEvent[] = []
    const { ended } = await decoder.open(t, `${url}/downward?client=${index}`, event => { received.push(event) })
    return { decoder, received, ended, expected: [], session: undefined }
  }))
  for (const [index, client] of clients.entries()) {
    await waitUntil(() => client.received.length > 0, `the welcome of ${client.decoder.name}`)
    client.session = opened.get(String(index))
  }
  await sendRandomly(random, sessions, clients)
  for (const { session, expected } of clients) {
    await session?.close('bye')
    expected.push(['close', { reason: 'bye' }])
  }
  for (const { decoder, received, expected, session, ended } of clients) {
    await waitUntil(() => received.at(-1)?.event === 'close', `all events of ${decoder.name}`)
    await t.resolves(withTimeout(Promise.resolve(ended), `the end of ${decoder.name}`), `${decoder.name} reports no error at the end`)
    const events = received.filter(({ event }) => event !== 'welcome' && event !== 'heartbeat')
    t.strictSame(events.map(({ event, data }) => [event, data]), expected, decoder.name)
    t.ok(events.slice(0, -1).every(({ id }) => id?.startsWith(`${session?.id as string}.`)), 'each client receives the ids of its session')
    if (decoder.reconnects === true) t.ok(received.filter(({ event }) => event === 'welcome').length > 1, 'the stream was resumed')
  }
}

const available = DECODERS.filter(({ needs }) => needs?.skip === undefined)

t.test('real decoders read a compressed stream', async t => {
  const served = await serveCompressed(t, false)
  await testDecoders(t, served, served.url, available.filter(({ usesHttp2 }) => usesHttp2 !== true))
})

t.test('real decoders read each event of a session when it arrives', async t => {
  const { sessions, url } = await serve(t, { compress: true }, { afterRegister: servePage })
  for (const decoder of available.filter(({ usesHttp2 }) => usesHttp2 !== true)) {
    const { promise: opened, resolve } = deferred<Session>()
    sessions.addHook('onOpen', session => { resolve(session) })
    const received: string[] = []
    await decoder.open(t, `${url}/downward`, ({ event }) => { received.push(event) })
    const session = await withTimeout(opened, `the session of ${decoder.name}`)
    await waitUntil(() => received.length === 1, `the welcome of ${decoder.name}`)
    await session.send(1)
    await waitUntil(() => received.length === 2, `the event of ${decoder.name}`)
    t.strictSame(received, ['welcome', 'message'], decoder.name)
    await session.close()
  }
})

t.test('real decoders read a compressed stream over HTTP/2', async t => {
  const served = await serveCompressed(t, true)
  const decoders = available.filter(({ usesHttp2 }) => usesHttp2 === true)
  await testDecoders(t, served, `https://localhost:${served.port}`, [...decoders, ...decoders])
})

t.test('real decoders read a compressed stream through nginx', needsProgram('nginx'), async t => {
  const served = await serveCompressed(t, false)
  await testDecoders(t, served, await startNginx(t, served.url), available.filter(({ usesHttp2 }) => usesHttp2 !== true))
})

testEachClient(t, 'the client of the package reads a compressed stream, and resumes it', async (t, connect) => {
  const { sessions, url } = await serve(t, { compress: true, retry: 1 }, { fastify: FORCE_CLOSE })
  const session = connect(url)
  const received: unknown[] = []
  session.on('tick', data => { received.push(data) })
  let resumes = 0
  session.on('resume', () => { resumes++ })
  await waitForEvent(session, 'open')
  const serverSession = await sessions.find(session.sessionId ?? '')
  for (let n = 0; n < 60; n++) {
    await sessions.broadcast('tick', n)
    await waitUntil(() => received.length === n + 1, 'the event')
    if (n % 20 === 19) {
      serverSession?.[kInternals].disconnect()
      await waitUntil(() => resumes === (n + 1) / 20, 'the client to resume')
    }
  }
  t.strictSame(received, Array.from({ length: 60 }, (_, n) => n))
})
