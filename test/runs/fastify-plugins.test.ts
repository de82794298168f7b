import compress from '@fastify/compress'
import cors from '@fastify/cors'
import helmet from '@fastify/helmet'
import rateLimit from '@fastify/rate-limit'
import swagger from '@fastify/swagger'
import Fastify from 'fastify'
import t from 'tap'
import sseSessions from '../../lib/index.js'
import { listen } from '../support/server.js'
import { createFeed } from './support/feed.js'
import { dataOf, follow } from './support/run-client.js'

t.test('a resumable route works with the plugins of Fastify for compression, CORS, headers, limits and documentation', async t => {
  const app = Fastify()
  const feed = createFeed()
  await app.register(compress, { threshold: 0 })
  await app.register(cors, { origin: 'http://app.example', exposedHeaders: ['Location'] })
  await app.register(helmet)
  await app.register(rateLimit, { max: 3, timeWindow: 60_000 })
  await app.register(swagger)
  await app.register(sseSessions, { closeTimeout: 100 })
  const body = { type: 'object', required: ['q'], properties: { q: { type: 'string' } } }
  app.post('/ask', { resumable: true, schema: { tags: ['ai'], body } }, async (_request, reply) => reply.events(feed.producer))
  const url = await listen(t, app)
  const headers = { origin: 'http://app.example', 'accept-encoding': 'gzip' }
  const post = await follow(t, `${url}/ask`, { method: 'POST', headers, body: { q: 'a' } })
  feed.add(1)
  await post.waitFor('1')
  t.equal(post.headers.get('content-encoding'), null)
  t.equal(post.headers.get('access-control-allow-origin'), 'http://app.example')
  t.equal(post.headers.get('access-control-expose-headers'), 'Location')
  t.equal(post.headers.get('x-content-type-options'), 'nosniff')
  t.equal(post.headers.get('x-ratelimit-remaining'), '2')
  const get = await follow(t, `${url}/ask`, { headers: { ...headers, 'last-event-id': post.events[0]?.id ?? '' } })
  t.equal(get.headers.get('x-ratelimit-remaining'), '1', 'a GET counts once')
  feed.add(2)
  feed.end()
  for (const [response, expected] of [[post, ['1', '2']], [get, ['2']]] as const) {
    t.equal(await response.isComplete, true)
    t.strictSame(dataOf(response), expected)
  }
  t.equal((await fetch(`${url}/ask`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' })).status, 400)
  t.equal((await fetch(`${url}/ask`, { headers: { 'last-event-id': get.lastEventId() } })).status, 429)
  const { '/ask': paths } = (app.swagger() as { paths: Record<string, object> }).paths
  t.strictSame(Object.keys(paths ?? {}).sort(), ['delete', 'get', 'post'])
})

t.test('app.inject receives the whole response of a run', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(sseSessions, { closeTimeout: 100 })
  app.post('/ask', { resumable: true }, async (_request, reply) => reply.events([1, 2]))
  const { statusCode, body, headers } = await app.inject({ method: 'POST', url: '/ask' })
  t.equal(statusCode, 200)
  t.match(body, /data: 1\n\n.*data: 2\n\n.*event: end\n/s)
  t.equal((await app.inject({ method: 'GET', url: String(headers.location) })).body.includes('data: 2\n'), true)
})
