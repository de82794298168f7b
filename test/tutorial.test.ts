import t from 'tap'
import { eventSources } from './support/eventsources.js'
import { serve } from './support/server.js'
import { openStream, post } from './support/stream.js'
import { signal, within } from './support/within.js'

const TIME_OF_DAY = /^\d{1,2}:\d{2}:\d{2}/

t.test('a plain app greets, and echoes what is posted', async t => {
  const { url } = await serve(t)
  const stream = await openStream(t, url)
  t.equal(stream.status, 200)
  const [welcome] = stream.events
  t.match(welcome?.data, { sessionId: stream.sessionId, resumed: false, text: 'Welcome to the chat!', timestamp: TIME_OF_DAY })
  const answer = await post(url, stream.sessionId, { text: 'hi' })
  t.equal(answer.status, 201)
  t.strictSame(answer.body, { status: 'Message sent successfully' })
  t.equal(answer.headers['x-session-connected'], 'true')
  const message = await stream.waitFor(({ event }) => event === 'message')
  t.match(message.data, { text: 'Data received: hi', timestamp: TIME_OF_DAY })
})

t.test('a message without text is refused by the echo', async t => {
  const { url } = await serve(t)
  const { sessionId } = await openStream(t, url)
  const answer = await post(url, sessionId, { nothing: 1 })
  t.equal(answer.status, 400)
  t.match(answer.body, { statusCode: 400, code: 'FST_SSE_TEXT_MISSING' })
})

for (const [name, open] of eventSources) {
  t.test(`the EventSource of ${name} gets the welcome and its echo`, async t => {
    const { url } = await serve(t)
    const source = open(t, `${url}/downward`)
    const welcome = signal<string>()
    const message = signal<string>()
    source.addEventListener('welcome', ({ data }) => { welcome.resolve(String(data)) })
    source.addEventListener('message', ({ data }) => { message.resolve(String(data)) })
    const { sessionId } = JSON.parse(await within(welcome.promise, 'the welcome')) as { sessionId: string }
    await post(url, sessionId, { text: 'hello' })
    t.match(JSON.parse(await within(message.promise, 'the echo')), { text: 'Data received: hello' })
  })
}
