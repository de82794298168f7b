import fastifyJwt from '@fastify/jwt'
import Fastify from 'fastify'
import t from 'tap'
import { request } from 'undici'
import { runScript } from '../support/child-process.js'
import { assertErrorResponse } from '../support/error-response.js'
import { openStream, postMessage, type ClientStream } from '../support/http-client.js'
import { withTimeout } from '../support/wait.js'
import { block } from './docs.js'
import { createFolder, runToEnd, startApp } from './docs-run.js'

const paths = { downward: '/chat/downward', upward: '/chat/upward' }
const cookies = block('docs/authentication.md', 'cookies')
const jwt = block('docs/authentication.md', 'jwt')
const JWT_SECRET = 'a secret of the test'

/** An app with further code before it listens. */
const extend = (app: string, code: string): string => app.replace('console.log', () => `${code}\nconsole.log`)

async function logIn (url: string, name: string): Promise<Record<string, string>> {
  const { statusCode, headers, body } = await request(`${url}/login`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ name }) })
  t.equal(statusCode, 200, await body.text())
  return { cookie: String(headers['set-cookie']).split(';')[0] ?? '' }
}

async function tokenOf (url: string, name: string): Promise<Record<string, string>> {
  const { body } = await request(`${url}/token`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ name }) })
  return { authorization: `Bearer ${(await body.json() as { token: string }).token}` }
}

/** A token that is valid for two seconds, which the app itself does not issue. */
async function createShortToken (name: string): Promise<Record<string, string>> {
  const app = Fastify()
  await app.register(fastifyJwt, { secret: JWT_SECRET })
  return { authorization: `Bearer ${app.jwt.sign({ sub: name }, { expiresIn: '2s' })}` }
}

async function endOf (stream: ClientStream): Promise<unknown> {
  const { data } = await stream.waitFor(({ event }) => event === 'close', 'the close event')
  await withTimeout(stream.ended, 'the end of the stream')
  return data
}

t.test('with cookies, a session belongs to its user, and a logout closes the sessions of one user', async t => {
  const code = [block('docs/authentication.md', 'logout'), block('docs/authentication.md', 'reject'), block('docs/authentication.md', 'authorize')].reduce(extend, cookies)
  const url = await startApp(t, createFolder(t)('cookies.js', code), { COOKIE_SECRET: 'a secret of the test' })
  const anonymous = await openStream(t, url, { path: paths.downward, skipWelcome: true })
  t.equal(anonymous.status, 401)
  const [ann, bob, mallory, guest] = await Promise.all([logIn(url, 'ann'), logIn(url, 'bob'), logIn(url, 'mallory'), logIn(url, 'guest')])

  const stream = await openStream(t, url, { path: paths.downward, headers: ann })
  const second = await openStream(t, url, { path: paths.downward, headers: ann })
  const other = await openStream(t, url, { path: paths.downward, headers: bob })
  const whoami = (headers: Record<string, string>): ReturnType<typeof postMessage> => postMessage(url, stream.sessionId, null, { path: paths.upward, event: 'whoami', headers })
  t.match(await whoami(ann), { status: 200, body: { user: 'ann' } })
  assertErrorResponse(t, await whoami(bob), 404, 'FST_SSE_SESSION_UNKNOWN')
  assertErrorResponse(t, await whoami({}), 401, 'NOT_LOGGED_IN')

  const blocked = await openStream(t, url, { path: paths.downward, headers: mallory, skipWelcome: true })
  await withTimeout(blocked.ended, 'the end of the response')
  t.equal(blocked.status, 403)
  t.match(JSON.parse(blocked.text()), { code: 'BLOCKED', message: 'This account is blocked' })

  const { sessionId } = await openStream(t, url, { path: paths.downward, headers: guest })
  assertErrorResponse(t, await postMessage(url, sessionId, null, { path: paths.upward, event: 'whoami', headers: guest }), 403, 'GUEST')

  const { statusCode } = await request(`${url}/logout`, { method: 'POST', headers: ann })
  t.equal(statusCode, 200)
  for (const closed of [stream, second]) t.strictSame(await endOf(closed), { reason: 'logout' })
  t.equal((await postMessage(url, other.sessionId, null, { path: paths.upward, event: 'whoami', headers: bob })).status, 200)
})

t.test('with tokens, the client sends one with each request', async t => {
  const save = createFolder(t)
  const url = await startApp(t, save('jwt.js', jwt), { JWT_SECRET })
  t.equal((await openStream(t, url, { path: paths.downward, skipWelcome: true })).status, 401)
  t.match(await runToEnd(t, save('client.js', block('docs/authentication.md', 'jwt-client')), { APP_URL: url }), /\{ user: 'ann' \}\nclosed: closed/)
})

t.test('a session is closed when its token expires, and stays open if it was renewed', async t => {
  const file = createFolder(t)('expiry.js', extend(jwt, block('docs/authentication.md', 'renew')))
  const child = runScript(t, file, { PORT: '0', JWT_SECRET })
  const [url] = await child.waitForOutput(/http:\/\/\S+/, 30_000)
  const headers = await createShortToken('ann')
  const expires = await openStream(t, url, { path: paths.downward, headers })
  const renewed = await openStream(t, url, { path: paths.downward, headers })
  const newer = await tokenOf(url, 'ann')
  t.match(block('docs/authentication.md', 'renew-client'), "emit('renew')")
  t.equal((await postMessage(url, renewed.sessionId, null, { path: paths.upward, event: 'renew', headers: newer })).status, 202)
  t.strictSame(await endOf(expires), { reason: 'unauthorized' })
  t.match(await postMessage(url, renewed.sessionId, null, { path: paths.upward, event: 'whoami', headers: newer }), { status: 200, headers: { 'x-session-connected': 'true' } })
})
